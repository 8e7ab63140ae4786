package pod

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ofRange matches the connections in which an address of a range takes part, before or after
// translation.
type ofRange netip.Prefix

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (r ofRange) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, ip := range []net.IP{flow.Forward.SrcIP, flow.Forward.DstIP, flow.Reverse.SrcIP, flow.Reverse.DstIP} {
		if a, ok := netip.AddrFromSlice(ip); ok && netip.Prefix(r).Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// forgetConnections removes the kernel's memory of the pods' connections: once the pods are gone,
// their translations would meet whoever gets the addresses and ports next. A kernel that cannot
// be asked keeps them until they time out.
func (n *Network) forgetConnections() error {
	h, err := netlink.NewHandleAt(n.host, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil //nolint:nilerr // no such family of netlink
	}
	defer h.Close()
	_, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, ofRange(n.cfg.CIDR))
	for _, cannot := range []error{unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOENT, netlink.ErrDumpInterrupted} {
		if errors.Is(err, cannot) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("forget the pods' connections: %w", err)
	}
	return nil
}
