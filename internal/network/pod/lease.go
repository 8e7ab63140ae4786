package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
)

// leases hands out the addresses of a range and remembers them on disk. A lease is a symbolic
// link named after the address that points at the sandbox: made and removed by one system call,
// so that it is never half there. The search goes on from the last address given (next fit), so
// that one just freed is used again as late as possible.
type leases struct {
	dir         string
	first, last netip.Addr // of those for pods

	mu     sync.Mutex
	next   netip.Addr
	byIP   map[netip.Addr]string
	holder map[string]netip.Addr
}

// cursor is the name of the link that remembers where the search goes on; it is made under
// draft and renamed.
const (
	cursor = "next"
	draft  = "next.draft"
)

func openLeases(stateDir string, cidr netip.Prefix) (*leases, error) {
	l := &leases{
		dir: leasesDir(stateDir), byIP: map[netip.Addr]string{}, holder: map[string]netip.Addr{},
		first: cidr.Masked().Addr().Next().Next(), last: lastOf(cidr).Prev(),
	}
	l.next = l.first
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	for _, e := range entries {
		if e.Name() == draft {
			continue
		}
		target, err := os.Readlink(filepath.Join(l.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("lease %s: %w", e.Name(), err)
		}
		if e.Name() == cursor {
			if ip, err := netip.ParseAddr(target); err == nil && l.contains(ip) {
				l.next = ip
			}
			continue
		}
		ip, err := netip.ParseAddr(e.Name())
		if err != nil {
			return nil, fmt.Errorf("lease %s: not an address; remove it", filepath.Join(l.dir, e.Name()))
		}
		// A lease outside the range (the node's range was changed) is kept until its pod goes.
		l.byIP[ip], l.holder[target] = target, ip
	}
	return l, nil
}

func leasesDir(stateDir string) string { return filepath.Join(stateDir, "leases") }

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

func (l *leases) contains(ip netip.Addr) bool {
	return ip.IsValid() && !ip.Less(l.first) && !l.last.Less(ip)
}

// acquire returns the sandbox's address and whether it held it before.
func (l *leases) acquire(sandbox string) (ip netip.Addr, held bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ip, ok := l.holder[sandbox]; ok {
		if l.contains(ip) {
			return ip, true, nil
		}
		if err := l.drop(sandbox); err != nil {
			return netip.Addr{}, false, err
		}
	}
	ip = l.next
	for taken := true; taken; {
		if _, taken = l.byIP[ip]; !taken {
			break
		}
		if ip = l.after(ip); ip == l.next {
			return netip.Addr{}, false, fmt.Errorf("no free address: %d of the range %s-%s are in use", len(l.byIP), l.first, l.last)
		}
	}
	if err := os.Symlink(sandbox, l.path(ip)); err != nil {
		return netip.Addr{}, false, fmt.Errorf("write lease: %w", err)
	}
	l.byIP[ip], l.holder[sandbox] = sandbox, ip
	l.next = l.after(ip)
	return ip, false, l.saveCursor()
}

func (l *leases) after(ip netip.Addr) netip.Addr {
	if ip == l.last {
		return l.first
	}
	return ip.Next()
}

func (l *leases) saveCursor() error {
	tmp := filepath.Join(l.dir, draft)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write lease cursor: %w", err)
	}
	if err := os.Symlink(l.next.String(), tmp); err != nil {
		return fmt.Errorf("write lease cursor: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(l.dir, cursor)); err != nil {
		return fmt.Errorf("write lease cursor: %w", err)
	}
	return nil
}

// of returns the address of a sandbox that holds one.
func (l *leases) of(sandbox string) (ip netip.Addr, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ip, ok = l.holder[sandbox]
	return ip, ok
}

func (l *leases) release(sandbox string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.drop(sandbox)
}

func (l *leases) drop(sandbox string) error {
	ip, ok := l.holder[sandbox]
	if !ok {
		return nil
	}
	if err := os.Remove(l.path(ip)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("free lease: %w", err)
	}
	delete(l.holder, sandbox)
	delete(l.byIP, ip)
	return nil
}

func (l *leases) holders() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]string, 0, len(l.holder))
	for s := range l.holder {
		out = append(out, s)
	}
	return out
}

func (l *leases) path(ip netip.Addr) string { return filepath.Join(l.dir, ip.String()) }
