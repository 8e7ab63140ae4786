// Package address gives Services their cluster IPs and node ports.
//
// It owns who has which, in memory, rebuilt from the Services themselves when the server starts:
// there is no other record to disagree with. It refuses the fields of a Service that are not
// addresses; package kind calls it around each write.
package address

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
)

// Errors of a pool, in upstream's words.
var (
	ErrFull      = errors.New("range is full")
	ErrTakenIP   = errors.New("provided IP is already allocated")
	ErrTakenPort = errors.New("provided port is already allocated")
)

// pool is a range of numbers of which each has at most one owner.
type pool struct {
	taken bitmap
	// first and end bound what may be taken, static what is only given on request while the
	// rest lasts (KEP-3070, KEP-3668): requests for particular numbers then rarely collide.
	first, end, static int
	// rove begins the search for a free number, so that one given back is not soon given again.
	rove func(n int) int
}

func newPool(size, first, end, least, most int) *pool {
	return &pool{taken: newBitmap(size), first: first, end: end, static: first + band(end-first, least, most), rove: rand.IntN}
}

// band is the share of a range kept for requests: a sixteenth for addresses, within bounds.
func band(size, least, most int) int {
	if size < least {
		return 0
	}
	return min(max(least, size/16), most)
}

// pick returns a free number without taking it; but lists numbers already promised.
func (p *pool) pick(but map[int]bool) (int, bool) {
	search := func(from, to int) (int, bool) {
		for from < to {
			n, ok := p.taken.free(from, to)
			if !ok || !but[n] {
				return n, ok
			}
			from = n + 1
		}
		return 0, false
	}
	if p.static < p.end {
		start := p.static + p.rove(p.end-p.static)
		if n, ok := search(start, p.end); ok {
			return n, true
		}
		if n, ok := search(p.static, start); ok {
			return n, true
		}
	}
	return search(p.first, p.static)
}

// ipPool is the range of cluster IPs.
type ipPool struct {
	*pool
	prefix netip.Prefix
}

// maxAddresses bounds the memory of a very wide range: what lies beyond is never given.
const maxAddresses = 1 << 20

func newIPPool(prefix netip.Prefix) (*ipPool, error) {
	prefix = prefix.Masked()
	host := prefix.Addr().BitLen() - prefix.Bits()
	if !prefix.IsValid() || host < 2 {
		return nil, fmt.Errorf("service range %s: too small for any service; use at least a /30", prefix)
	}
	size := maxAddresses
	if host < 20 {
		size = 1 << host
	}
	end := size
	if prefix.Addr().Is4() && host < 20 {
		// The last address of an IPv4 range is its broadcast address.
		end--
	}
	p := &ipPool{newPool(size, 1, end, 16, 256), prefix}
	return p, nil
}

// offset returns the place of an address in the range.
func (p *ipPool) offset(ip netip.Addr) (int, bool) {
	if !p.prefix.Contains(ip) {
		return 0, false
	}
	a, b := p.prefix.Addr().As16(), ip.As16()
	n := 0
	for i := 12; i < 16; i++ {
		n = n<<8 | (int(b[i]) - int(a[i]))
	}
	for i := range 12 {
		if a[i] != b[i] {
			return 0, false
		}
	}
	return n, n >= p.first && n < p.end
}

func (p *ipPool) address(n int) netip.Addr {
	b := p.prefix.Addr().As16()
	for i := 15; n > 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	ip := netip.AddrFrom16(b)
	if p.prefix.Addr().Is4() {
		return ip.Unmap()
	}
	return ip
}
