package setting

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// record is what the settings of one network namespace were, and who holds them.
type record struct {
	// Boot is the kernel's boot id: the record of an earlier boot says nothing.
	Boot string `json:"boot"`
	Was  []was  `json:"was"`
	// Holders are the homes of those who hold settings, by name.
	Holders map[string]string `json:"holders"`
}

func read(path string) (record, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return record{}, err
	}
	fresh := record{Boot: strings.TrimSpace(string(boot)), Holders: map[string]string{}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	var r record
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return record{}, fmt.Errorf("record %s: %w", path, err)
	}
	if r.Boot != fresh.Boot {
		return fresh, nil
	}
	if r.Holders == nil {
		r.Holders = map[string]string{}
	}
	return r, nil
}

// write replaces the record whole. It is not synced: it describes this boot of the machine only.
func (r record) write(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+draft, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+draft, path)
}

// draft ends the name under which a record is written before it replaces the old one.
const draft = ".tmp"

// remember notes what settings are that nobody has changed yet.
func (r *record) remember(want []Setting) error {
	for _, s := range want {
		if slices.ContainsFunc(r.Was, func(w was) bool { return w.Path == s.Path }) {
			continue
		}
		w, err := look(s)
		if err != nil {
			return err
		}
		r.Was = append(r.Was, w)
	}
	return nil
}

// dropGone forgets the holders whose homes are gone: nobody will release for them.
func (r *record) dropGone() {
	for name, home := range r.Holders {
		if _, err := os.Stat(home); errors.Is(err, fs.ErrNotExist) {
			delete(r.Holders, name)
		}
	}
}

// locked runs f with the namespace's record to itself, and removes the directory when no record is
// left in it, as well as the one above.
func (b Book) locked(f func(path string) error) error {
	ns, err := namespace()
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	lock, err := b.lock()
	if err != nil {
		return fmt.Errorf("lock %s: %w", b.Dir, err)
	}
	defer lock.Close()
	err = f(filepath.Join(b.Dir, ns+".json"))
	if os.Remove(b.Dir) == nil {
		_ = os.Remove(filepath.Dir(b.Dir))
	}
	return err
}

// namespace names the calling thread's network namespace: by its cookie, which no other has until
// the machine restarts (SO_NETNS_COOKIE, Linux 5.14), or by its inode on older kernels.
func namespace() (string, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(s)
	if cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return fmt.Sprintf("net-%d", cookie), nil
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("net-inode-%d", st.Ino), nil
}

// lock locks the directory itself, which leaves nothing behind. Whoever had it before may have
// removed it: then it is made anew.
func (b Book) lock() (*os.File, error) {
	for {
		if err := os.MkdirAll(b.Dir, 0o700); err != nil {
			return nil, err
		}
		f, err := os.Open(b.Dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, err
		}
		ours, err := f.Stat()
		now, nerr := os.Stat(b.Dir)
		if err == nil && nerr == nil && os.SameFile(ours, now) {
			return f, nil
		}
		f.Close()
	}
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
