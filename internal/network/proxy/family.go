package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Family is which addresses there are: a table of the kernel has those of one.
type Family uint8

// The families.
const (
	IPv4 Family = iota
	IPv6
)

// Address is an address of a table's family: of IPv4 the first four bytes, and zeros. The zero value stands for every address
// of the node.
type Address [16]byte

// FamilyOf is that of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Size is how many bytes an address has.
func (f Family) Size() int {
	if f == IPv6 {
		return 16
	}
	return 4
}

// Address is an address as the tables of the family have it; ok is false for one of another.
func (f Family) Address(a netip.Addr) (out Address, ok bool) {
	if !a.IsValid() || FamilyOf(a) != f {
		return out, false
	}
	copy(out[:], a.AsSlice())
	return out, true
}

// Addr is the address that a table's stands for.
func (f Family) Addr(a Address) netip.Addr {
	if f == IPv6 {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte(a[:4]))
}

// parse reads an address of the family that packets can be sent to: from anywhere, and not on one link alone.
func (f Family) parse(text string) (Address, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() || a.Is6() && a.IsLinkLocalUnicast() {
		return Address{}, false
	}
	return f.Address(a)
}

// has says whether a service is of the family: it has a cluster IP of it, or none at all.
func (f Family) has(s *corev1.Service) bool {
	none := true
	for _, text := range clusterIPs(&s.Spec) {
		a, err := netip.ParseAddr(text)
		if none = none && err != nil; err == nil && FamilyOf(a) == f {
			return true
		}
	}
	return none
}

// slicesOf is the address type of the family's endpoint slices.
func (f Family) slicesOf() discoveryv1.AddressType {
	if f == IPv6 {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// FamilyOfSlice is that of a slice's addresses; ok is false where they are names.
func FamilyOfSlice(s *discoveryv1.EndpointSlice) (f Family, ok bool) {
	all := []Family{IPv4, IPv6}
	i := slices.IndexFunc(all, func(f Family) bool { return f.slicesOf() == s.AddressType })
	return all[max(i, 0)], i >= 0
}

// last is the last address of a range.
func (f Family) last(p netip.Prefix) Address {
	out, _ := f.Address(p.Masked().Addr())
	for bit := p.Bits(); bit < f.Size()*8; bit++ {
		out[bit/8] |= 0x80 >> (bit % 8)
	}
	return out
}

// The lengths in bytes of a destination and of an endpoint in the kernel's keys and data: fields are padded to four.
func (f Family) destinationSize() int { return f.Size() + 8 }
func (f Family) endpointSize() int    { return f.Size() + 4 }
