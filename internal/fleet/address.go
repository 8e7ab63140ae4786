package fleet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/podstate"
	"coracle/internal/simnode"
)

var none netip.Addr

// addresses are those of a node's range and which of them are taken. The network's own address,
// the node's (simnode.Ranges) and the last one are never given.
type addresses struct {
	first netip.Addr // the network's
	size  uint32
	taken []uint64
	next  uint32
}

// mostAddresses bounds the part of a range that is used: an IPv6 range has more than any node
// could need.
const mostAddresses = 1 << 16

// newAddresses returns the addresses of a node, nil when it has no range.
func newAddresses(node *corev1.Node) *addresses {
	ranges := simnode.Ranges(node)
	if len(ranges) == 0 {
		return nil
	}
	a := &addresses{first: ranges[0].Addr(), size: mostAddresses, next: 2}
	for _, p := range ranges { // a pod has an address at the same place in each
		if free := p.Addr().BitLen() - p.Bits(); free < 16 {
			a.size = min(a.size, 1<<free)
		}
	}
	return a
}

// heldBy is the address that a pod keeps others from using.
func heldBy(pod *corev1.Pod) netip.Addr {
	if pod == nil || pod.Status.PodIP == "" || pod.Spec.HostNetwork || podstate.Ended(pod) {
		return none
	}
	addr, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return none
	}
	return addr
}

// give takes an address back. What lies outside of the range is let be, as by take.
func (a *addresses) give(addr netip.Addr) {
	if i, ok := a.offset(addr); ok && int(i/64) < len(a.taken) {
		a.taken[i/64] &^= 1 << (i % 64)
	}
}

// take marks an address as taken.
func (a *addresses) take(addr netip.Addr) {
	if i, ok := a.offset(addr); ok {
		a.mark(i)
	}
}

func (a *addresses) mark(i uint32) {
	for int(i/64) >= len(a.taken) {
		a.taken = append(a.taken, 0)
	}
	a.taken[i/64] |= 1 << (i % 64)
}

// pick takes a free address: the one after the last that was picked, so that an address is not
// used again at once; false when none is free.
func (a *addresses) pick() (netip.Addr, bool) {
	if a.size < 4 {
		return none, false
	}
	for tried := uint32(0); tried < a.size; {
		i := a.next
		if i >= a.size-1 {
			i = 2
		}
		word := uint64(0)
		if int(i/64) < len(a.taken) {
			word = a.taken[i/64]
		}
		if word>>(i%64)&1 == 0 {
			a.mark(i)
			a.next = i + 1
			return a.at(i), true
		}
		step := uint32(bits.TrailingZeros64(^(word >> (i % 64)))) // the taken ones in a row
		a.next = i + step
		tried += step
	}
	return none, false
}

func (a *addresses) at(i uint32) netip.Addr {
	if a.first.Is4() {
		b := a.first.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+i)
		return netip.AddrFrom4(b)
	}
	b := a.first.As16()
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])+i)
	return netip.AddrFrom16(b)
}

func (a *addresses) offset(addr netip.Addr) (uint32, bool) {
	if a == nil || !addr.IsValid() || addr.BitLen() != a.first.BitLen() || addr.Less(a.first) {
		return 0, false
	}
	have, first := addr.As16(), a.first.As16()
	if [12]byte(have[:12]) != [12]byte(first[:12]) {
		return 0, false
	}
	i := binary.BigEndian.Uint32(have[12:]) - binary.BigEndian.Uint32(first[12:])
	return i, i < a.size
}
