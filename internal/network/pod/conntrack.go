package pod

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The kernel remembers of each connection where its packets are led (conntrack): of one that ended in order for two minutes, of
// one whose end it did not see for as long as five days. A client that connects again from the same port meanwhile is,
// to the kernel, part of the old connection where it has not seen that end, and is led where that one was. So no
// memory of an address may outlive the pod that has it.

// forget removes the kernel's memory of the connections in which an address of a pod takes part: of those the pod began, and
// of those that were led to it. The kernel looks through what it has and tells of these alone (from 5.8 on; an
// older one tells of all). A kernel that cannot be asked keeps them until they time out.
func (n *Network) forget(ip netip.Addr) error {
	return n.forgetMatching(netip.PrefixFrom(ip, ip.BitLen()),
		led{tuple: nl.CTA_TUPLE_ORIG, flags: filterOriginal, address: ip},
		led{tuple: nl.CTA_TUPLE_REPLY, flags: filterReply, address: ip})
}

// forgetConnections does so for all addresses of the node's range.
func (n *Network) forgetConnections() error {
	err := n.forgetMatching(n.cfg.CIDR, led{})
	if n.dual() {
		err = errors.Join(err, n.forgetMatching(n.cfg.IPv6.CIDR, led{}))
	}
	return err
}

// led has the kernel tell of the connections alone that have an address as the source of one of their directions: nobody's
// is translated to a pod's, so that a pod's address is always one of the two sources. The zero value is all connections.
type led struct {
	tuple, flags int
	address      netip.Addr
}

// Attributes by which the kernel filters what it tells (linux/netfilter/nfnetlink_conntrack.h, nf_internals.h).
const (
	filterAttribute = 25 // CTA_FILTER
	filterOriginal  = 1  // CTA_FILTER_ORIG_FLAGS
	filterReply     = 2  // CTA_FILTER_REPLY_FLAGS
	filterBySource  = 1  // CTA_FILTER_F_CTA_IP_SRC
)

func (l led) addTo(req *nl.NetlinkRequest) {
	if !l.address.IsValid() {
		return
	}
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|l.tuple, nil)
	source := nl.CTA_IP_V4_SRC
	if l.address.Is6() {
		source = nl.CTA_IP_V6_SRC
	}
	tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(source, l.address.AsSlice())
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|filterAttribute, nil)
	for _, flags := range []int{filterOriginal, filterReply} {
		by := uint32(0)
		if flags == l.flags {
			by = filterBySource
		}
		filter.AddRtAttr(flags, binary.NativeEndian.AppendUint32(nil, by))
	}
	req.AddData(tuple)
	req.AddData(filter)
}

// forgetMatching removes what the kernel tells of and has an address of a range.
func (n *Network) forgetMatching(r netip.Prefix, of ...led) error {
	socket, err := nl.GetNetlinkSocketAt(n.host, netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil //nolint:nilerr // no such family of netlink
	}
	defer socket.Close()
	shared := map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}
	for _, l := range of {
		failed := forgetTold(shared, l, r)
		if errors.Is(failed, unix.EINVAL) || errors.Is(failed, unix.EOPNOTSUPP) {
			failed = forgetTold(shared, led{}, r) // it cannot filter
		}
		err = errors.Join(err, failed)
	}
	for _, cannot := range []error{unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EINVAL, netlink.ErrDumpInterrupted} {
		if errors.Is(err, cannot) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("forget the connections of %s: %w", r, err)
	}
	return nil
}

func forgetTold(shared map[int]*nl.SocketHandle, l led, r netip.Prefix) error {
	told, err := whole(func() ([][]byte, error) {
		req := aboutConnections(shared, r, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
		l.addTo(req)
		return req.Execute(unix.NETLINK_NETFILTER, 0)
	})
	errs := []error{err}
	for _, raw := range told {
		if len(raw) < nl.SizeofNfgenmsg || !names(raw[nl.SizeofNfgenmsg:], r) {
			continue
		}
		req := aboutConnections(shared, r, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddRawData(raw[nl.SizeofNfgenmsg:]) // with its number, by which no other is meant
		if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func aboutConnections(shared map[int]*nl.SocketHandle, of netip.Prefix, kind, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|kind, flags)
	req.Sockets = shared
	family := uint8(unix.AF_INET)
	if of.Addr().Is6() {
		family = unix.AF_INET6
	}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}

// names says whether a connection has an address of a range, before or after translation.
func names(connection []byte, r netip.Prefix) bool {
	for _, direction := range []uint16{nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_REPLY} {
		ends := attribute(attribute(connection, direction), nl.CTA_TUPLE_IP)
		for _, end := range []uint16{nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST, nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST} {
			if ip, ok := netip.AddrFromSlice(attribute(ends, end)); ok && r.Contains(ip) {
				return true
			}
		}
	}
	return false
}

// attribute returns the value of a kind among netlink attributes, nil when there is none.
func attribute(raw []byte, kind uint16) []byte {
	all, err := nl.ParseRouteAttr(raw)
	if err != nil {
		return nil
	}
	for _, a := range all {
		if a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return a.Value
		}
	}
	return nil
}
