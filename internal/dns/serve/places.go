package serve

import (
	"net/netip"
	"sync"
)

// places are a number of places, of which no client may have all: one that floods leaves room for the others.
type places struct {
	most, each int

	mu    sync.Mutex
	taken int
	by    map[netip.Addr]int
}

func newPlaces(most, each int) *places {
	return &places{most: most, each: each, by: map[netip.Addr]int{}}
}

// take takes a place for a client, if it may have one more.
func (p *places) take(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.most || p.by[a] >= p.each {
		return false
	}
	p.taken++
	p.by[a]++
	return true
}

func (p *places) give(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[a]--; p.by[a] == 0 {
		delete(p.by, a)
	}
}
