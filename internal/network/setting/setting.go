// Package setting changes settings of the kernel (sysctl) that all networks of a machine share, and
// puts them back when the last network that wanted them is gone.
//
// It owns one record for each network namespace: what the settings were, and who holds them. The
// record is written before the first change, so that a process killed in between leaves no setting
// that nobody remembers; it lies under /run, because it does not outlive the kernel either. It
// refuses to know what the settings mean, but for the others that the kernel changes along with one.
package setting

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// DefaultDir is where the records of this machine's networks are.
const DefaultDir = "/run/coracle/settings"

// Setting is a value that a network wants.
type Setting struct {
	// Path is below /proc/sys, such as net/ipv4/ip_forward.
	Path string `json:"path"`
	// Value is what it shall be.
	Value string `json:"value"`
	// Along are patterns of other settings that the kernel changes when this one changes.
	Along []string `json:"-"`
}

// Forwarding lets the machine pass packets on. With it the kernel changes the forwarding of every
// link, and whether redirects are believed
// (https://docs.kernel.org/networking/ip-sysctl.html, ip_forward and accept_redirects).
var Forwarding = Setting{
	Path: "net/ipv4/ip_forward", Value: "1",
	Along: []string{"net/ipv4/conf/all/accept_redirects", "net/ipv4/conf/*/forwarding"},
}

// Forwarding6 is Forwarding for IPv6: the kernel changes that of every link along with it (ip-sysctl.html, conf/all/forwarding).
var Forwarding6 = Setting{
	Path: "net/ipv6/conf/all/forwarding", Value: "1", Along: []string{"net/ipv6/conf/*/forwarding"},
}

// Refusals6 has the machine tell each sender of a datagram that nobody takes it, also while there is traffic between pods: a
// machine that passes a packet on by the link that it came from counts that as something it told the sender (a shorter way,
// whether it tells of it or not), of which the sender is to get few (ip-sysctl.html, icmp/ratemask; the default but for type
// 1 of RFC 4443).
var Refusals6 = Setting{Path: "net/ipv6/icmp/ratemask", Value: "0,3-127"}

// NoRedirects has the machine tell nobody of a shorter way unless the link's own setting says so: with this one on, a
// link's cannot turn it off (ip-sysctl.html, send_redirects).
var NoRedirects = Setting{Path: "net/ipv4/conf/all/send_redirects", Value: "0"}

// Holder is who wants settings. It counts as gone when its home is.
type Holder struct {
	// Name is its own on the machine.
	Name string
	// Home is a directory that exists as long as the holder does.
	Home string
}

// Book is the records below a directory. All calls work on the network namespace of the calling
// thread, which the caller has locked.
type Book struct {
	Dir string
	// step, when set, is told each point that a change passes: tests die there.
	step func(name string)
}

// Hold makes the settings so, on behalf of a holder. It may be called again.
func (b Book) Hold(h Holder, want ...Setting) error {
	if h.Name == "" || h.Home == "" {
		return errors.New("hold settings: the holder has no name, or no home")
	}
	err := b.locked(func(path string) error {
		r, err := read(path)
		if err != nil {
			return err
		}
		r.dropGone()
		if err := r.remember(want); err != nil {
			return err
		}
		r.Holders[h.Name] = h.Home
		if err := r.write(path); err != nil {
			return err
		}
		b.reached("recorded")
		for _, s := range want {
			if err := ensure(s.Path, s.Value); err != nil {
				return err
			}
			b.reached("changed")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("hold settings: %w", err)
	}
	return nil
}

// Release says that a holder wants its settings no longer. When it was the last, they are put back
// to what they were, but for those that somebody else has changed meanwhile. Releasing what is not
// held is no error, and finishes what an earlier release could not.
func (b Book) Release(name string) error {
	err := b.locked(func(path string) error {
		r, err := read(path)
		if err != nil {
			return err
		}
		delete(r.Holders, name)
		r.dropGone()
		if err := r.write(path); err != nil {
			return err
		}
		b.reached("released")
		if len(r.Holders) > 0 {
			return nil
		}
		for _, w := range r.Was {
			if err := w.putBack(); err != nil {
				return err
			}
			b.reached("put back")
		}
		_ = os.Remove(path + draft)
		return os.Remove(path)
	})
	if err != nil {
		return fmt.Errorf("put settings back: %w", err)
	}
	return nil
}

func (b Book) reached(step string) {
	if b.step != nil {
		b.step(step)
	}
}

const sysctls = "/proc/sys"

func get(path string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(sysctls, path))
	return strings.TrimSpace(string(raw)), err
}

// ensure writes only what differs: writing has side effects even when nothing changes.
func ensure(path, value string) error {
	have, err := get(path)
	if err == nil && have != value {
		err = os.WriteFile(filepath.Join(sysctls, path), []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("set %s to %s: %w", strings.ReplaceAll(path, "/", "."), value, err)
	}
	return nil
}

// was is what a setting, and those that change along with it, were.
type was struct {
	Setting
	Was   string            `json:"was"`
	Along map[string]string `json:"along,omitempty"`
}

func look(s Setting) (was, error) {
	w := was{Setting: s, Along: map[string]string{}}
	var err error
	if w.Was, err = get(s.Path); err != nil || w.Was == s.Value {
		return w, err
	}
	for _, pattern := range s.Along {
		found, err := filepath.Glob(filepath.Join(sysctls, pattern))
		if err != nil {
			return w, err
		}
		for _, f := range found {
			path := strings.TrimPrefix(f, sysctls+"/")
			value, err := get(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // a link that goes away at this moment
			}
			if err != nil {
				return w, err
			}
			w.Along[path] = value
		}
	}
	return w, nil
}

func (w was) putBack() error {
	have, err := get(w.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the link that it was a setting of is gone
	}
	if err != nil {
		return err
	}
	if have != w.Value && have != w.Was {
		return nil // somebody else's choice by now
	}
	if err := ensure(w.Path, w.Was); err != nil {
		return err
	}
	for path, value := range w.Along {
		if err := ensure(path, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
