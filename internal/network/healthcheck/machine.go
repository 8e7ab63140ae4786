package healthcheck

import (
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Machine returns what Config.Here asks for: an address is of an endpoint of this machine if it is one of the machine's own,
// as those of pods in the host's network are, or in the range of a link whose name begins with siblings, as those of the
// pods of its nodes are. Where the kernel cannot be asked, none is.
func Machine(links *netlink.Handle, siblings string) func() func(netip.Addr) bool {
	return func() func(netip.Addr) bool {
		var own []netip.Addr
		var ranges []netip.Prefix
		bridges := map[int]bool{}
		all, _ := links.LinkList() // what was listed counts, here and below
		for _, l := range all {
			bridges[l.Attrs().Index] = strings.HasPrefix(l.Attrs().Name, siblings)
		}
		addrs, _ := links.AddrList(nil, unix.AF_UNSPEC)
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			if ip = ip.Unmap(); !ok {
				continue
			}
			own = append(own, ip)
			if bits, _ := a.Mask.Size(); bridges[a.LinkIndex] && bits > 0 {
				ranges = append(ranges, netip.PrefixFrom(ip, bits))
			}
		}
		return func(a netip.Addr) bool {
			for _, ip := range own {
				if ip == a {
					return true
				}
			}
			for _, p := range ranges {
				if p.Contains(a) {
					return true
				}
			}
			return false
		}
	}
}
