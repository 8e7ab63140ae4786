package address

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"coracle/internal/servicerange"

	corev1 "k8s.io/api/core/v1"
)

// mark is why an address is taken.
type mark uint8

const (
	// ofService: a Service has it.
	ofService mark = 1 << iota
	// ofObject: an IPAddress says that somebody else has it.
	ofObject
)

// ranges are those that cluster IPs are given from. They may overlap (KEP-1880): an address that is taken is so in each.
type ranges struct {
	pools []named
	taken map[netip.Addr]mark
	// reserved counts why an address is ofObject: one that exists, and writes of it whose outcome is not known.
	reserved map[netip.Addr]int
}

type named struct {
	name string
	*ipPool
}

func (r *ranges) take(ip netip.Addr, why mark) {
	r.taken[ip] |= why
	for _, p := range r.pools {
		if n, ok := p.offset(ip); ok {
			p.taken.add(n)
		}
	}
}

func (r *ranges) release(ip netip.Addr, why mark) {
	if r.taken[ip] &^= why; r.taken[ip] != 0 {
		return
	}
	delete(r.taken, ip)
	for _, p := range r.pools {
		if n, ok := p.offset(ip); ok {
			p.taken.remove(n)
		}
	}
}

// gives says whether an address is in a range.
func (r *ranges) gives(ip netip.Addr) bool {
	return slices.ContainsFunc(r.pools, func(p named) bool {
		_, ok := p.offset(ip)
		return ok
	})
}

// pick finds a free address: in the range that the cluster was made with first, then in the others as they came.
func (r *ranges) pick(family corev1.IPFamily) (netip.Addr, bool) {
	for _, p := range r.pools {
		if familyOf(p.prefix.Addr()) != family {
			continue
		}
		if n, ok := p.pick(nil); ok {
			return p.address(n), true
		}
	}
	return netip.Addr{}, false
}

func (r *ranges) list(family corev1.IPFamily) string {
	var out []string
	for _, p := range r.pools {
		if familyOf(p.prefix.Addr()) != family {
			continue
		}
		out = append(out, p.prefix.String())
	}
	return strings.Join(out, ", ")
}

// SetRange has addresses given from ranges of the cluster's families under a name, instead of those that it had; from none, if
// there are none. Addresses that Services have of ranges that are gone stay theirs.
func (s *Services) SetRange(name string, prefixes ...netip.Prefix) error {
	if name == servicerange.Own {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var want []named
	for _, prefix := range prefixes {
		if !slices.Contains(s.families, familyOf(prefix.Addr())) {
			continue
		}
		p, err := newIPPool(prefix)
		if err != nil {
			return fmt.Errorf("ServiceCIDR %s: %w", name, err)
		}
		want = append(want, named{name, p})
	}
	var had []netip.Prefix
	for _, p := range s.ips.pools {
		if p.name == name {
			had = append(had, p.prefix)
		}
	}
	if slices.EqualFunc(had, want, func(a netip.Prefix, b named) bool { return a == b.prefix }) {
		return nil
	}
	s.ips.pools = slices.DeleteFunc(s.ips.pools, func(p named) bool { return p.name == name })
	for _, p := range want {
		for ip := range s.ips.taken {
			if n, ok := p.offset(ip); ok {
				p.taken.add(n)
			}
		}
		s.ips.pools = append(s.ips.pools, p)
	}
	return nil
}

// ErrOfService is returned for an address that a Service has.
var ErrOfService = errors.New("a Service has the address")

// Reserve takes an address for somebody who is no Service of this book, and each Unreserve gives back what one Reserve took.
func (s *Services) Reserve(ip netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ips.taken[ip]&ofService != 0 {
		return ErrOfService
	}
	s.ips.reserved[ip]++
	s.ips.take(ip, ofObject)
	return nil
}

// Unreserve gives back an address that was reserved, once for each time.
func (s *Services) Unreserve(ip netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ips.reserved[ip]--; s.ips.reserved[ip] > 0 {
		return
	}
	delete(s.ips.reserved, ip)
	s.ips.release(ip, ofObject)
}
