package pod

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"coracle/internal/network/conntrack"
)

// A client that connects again from the same port is, to the kernel, part of the old connection where it has not seen that one's end,
// and is led where that one was (package conntrack). So no memory of an address may outlive the pod that has it.

// forget removes the kernel's memory of the connections in which an address of a pod takes part: of those the pod began, and
// of those that were led to it. A kernel that cannot be asked keeps them until they time out.
func (n *Network) forget(ip netip.Addr) error {
	return n.forgetAmong(ip.String(), conntrack.With(ip), nil)
}

// forgetConnections does so for all addresses of the node's range.
func (n *Network) forgetConnections() error {
	of := func(r netip.Prefix) error {
		return n.forgetAmong(r.String(), []conntrack.Among{{IPv6: r.Addr().Is6()}}, func(f *conntrack.Flow) bool { return f.Names(r.Contains) })
	}
	err := of(n.cfg.CIDR)
	if n.dual() {
		err = errors.Join(err, of(n.cfg.IPv6.CIDR))
	}
	return err
}

func (n *Network) forgetAmong(whose string, of []conntrack.Among, goes func(*conntrack.Flow) bool) error {
	table, err := conntrack.Open(n.host)
	if err != nil {
		return nil //nolint:nilerr // no such family of netlink
	}
	defer table.Close()
	if _, _, err = table.Forget(of, goes); err == nil || table.Cannot(err) || errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	return fmt.Errorf("forget the connections of %s: %w", whose, err)
}
