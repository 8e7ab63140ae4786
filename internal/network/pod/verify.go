package pod

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A pod that may send what it likes (CAP_NET_RAW) could say that it is another: in a packet's source, in what it tells neighbours
// of whose an address is (ARP, RFC 826; neighbour discovery, RFC 4861), in a frame's source. So a table of family
// bridge lets nothing in from a pod's link but what has the link's own hardware address and an address of the pod, by one
// element for each in sets that all pods share, and nothing to one pod but by way of the node, whose rules of family ip would
// not see it (network policies). The bridge learns nothing from pods, whose places are written into it.

// Names in the table of family bridge.
const (
	verifyChain = "verify"
	portsSet    = "ports"     // links of pods
	ownSet      = "addresses" // link . hardware address . IPv4 address
	own6Set     = "addresses6"
)

// verifyHooks are where frames pass: prerouting sees all but those that are meant for the bridge itself by their kind
// (IEEE 802.1D, 01-80-C2-00-00-0X), which input sees.
var verifyHooks = map[string]uint32{"prerouting": unix.NF_INET_PRE_ROUTING, "input": unix.NF_INET_LOCAL_IN}

// own are the addresses that a pod may send from: those it has been given, and the one of its link that the kernel makes of
// the hardware address (RFC 4291, appendix A), by which it finds neighbours.
func (n *Network) own(ip netip.Addr) []netip.Addr {
	all := []netip.Addr{ip, linkLocal(macOf(ip))}
	if n.dual() {
		all = append(all, n.cfg.second(ip))
	}
	return all
}

func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// Registers of 4 bytes each; a link's name takes four, a hardware address two.
const (
	linkRegister    = 8 // NFT_REG32_00
	macRegister     = linkRegister + 4
	addressRegister = macRegister + 2
)

// Offsets in headers: Ethernet (IEEE 802.3), IPv4 (RFC 791), IPv6 (RFC 8200), ARP for IPv4 over Ethernet (RFC 826), ICMPv6 (RFC 4861).
const (
	etherSource    = 6
	source4Offset  = 12
	dest4Offset    = 16
	source6Offset  = 8
	arpSenderMAC   = 8
	arpSenderIP    = 14
	dest6Offset    = 24
	targetOffset   = 8
	solicitation   = 135
	advertisement  = 136
	listenerReport = 143 // RFC 9777
)

// verifyRules let a frame go on that says of its sender what is so, and drop all others. What is of no kind named here is
// dropped: a tag before it (IEEE 802.1Q) is none of its kind, for the kernel takes that away first.
func verifyRules(bridge net.HardwareAddr) [][]expr.Any {
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	drop := []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	rule := func(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }
	frame := func(set string, base expr.PayloadBase, offset, length uint32) []expr.Any {
		return isOwn(set, expr.PayloadBaseLLHeader, etherSource, base, offset, length)
	}
	target := frame(own6Set, expr.PayloadBaseTransportHeader, targetOffset, 16)
	unspecified := compare(expr.PayloadBaseNetworkHeader, source6Offset, expr.CmpOpEq, make([]byte, 16))
	rules := [][]expr.Any{
		// To a link that is not the node's, or to all links though it is for one address.
		rule(toGroup(expr.CmpOpEq), compare(expr.PayloadBaseLLHeader, 0, expr.CmpOpNeq, bridge), drop),
		rule(toGroup(expr.CmpOpNeq), ofKind(unix.ETH_P_IP), compare(expr.PayloadBaseNetworkHeader, dest4Offset, expr.CmpOpLt, []byte{224}), drop),
		rule(toGroup(expr.CmpOpNeq), ofKind(unix.ETH_P_IPV6), compare(expr.PayloadBaseNetworkHeader, dest6Offset, expr.CmpOpNeq, []byte{0xff}), drop),
		rule(ofKind(unix.ETH_P_IP), frame(ownSet, expr.PayloadBaseNetworkHeader, source4Offset, 4), []expr.Any{accept}),
		rule(ofKind(unix.ETH_P_ARP), frame(ownSet, expr.PayloadBaseNetworkHeader, arpSenderIP, 4),
			isOwn(ownSet, expr.PayloadBaseNetworkHeader, arpSenderMAC, expr.PayloadBaseNetworkHeader, arpSenderIP, 4), []expr.Any{accept}),
		// What a neighbour says of an address, it says of its own, and no pod is a router or knows of one.
		rule(icmp6(advertisement), target, frame(own6Set, expr.PayloadBaseNetworkHeader, source6Offset, 16), []expr.Any{accept}),
		rule(icmp6(advertisement), drop),
		rule(icmp6(134), drop), // router advertisement
		rule(icmp6(137), drop), // redirect
		// Before it has an address a link asks whether anybody has it, and says what it listens to.
		rule(icmp6(solicitation), unspecified, target, []expr.Any{accept}),
		rule(icmp6(listenerReport), unspecified, []expr.Any{accept}),
		rule(ofKind(unix.ETH_P_IPV6), frame(own6Set, expr.PayloadBaseNetworkHeader, source6Offset, 16), []expr.Any{accept}),
		drop,
	}
	return rules
}

func ofKind(etherType uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, etherType)},
	}
}

func icmp6(kind byte) []expr.Any {
	return slices.Concat(ofKind(unix.ETH_P_IPV6), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
	}, compare(expr.PayloadBaseTransportHeader, 0, expr.CmpOpEq, []byte{kind}))
}

func compare(base expr.PayloadBase, offset uint32, op expr.CmpOp, with []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(with))},
		&expr.Cmp{Op: op, Register: 1, Data: with},
	}
}

// toGroup compares the bit of a frame's destination that says that it is for several links (IEEE 802.3) with none.
func toGroup(op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{0}},
	}
}

// isOwn says whether the link has a hardware address and an address that are somewhere in a frame.
func isOwn(set string, macBase expr.PayloadBase, macAt uint32, base expr.PayloadBase, offset, length uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: linkRegister},
		&expr.Payload{DestRegister: macRegister, Base: macBase, Offset: macAt, Len: 6},
		&expr.Payload{DestRegister: addressRegister, Base: base, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: linkRegister, SetName: set},
	}
}

// place writes into the bridge where a pod's hardware address is, and has it learn nothing from the pod. (Its links are not
// isolated from each other: where bridges call the rules of family ip, they pass on what those lead to another pod.)
func (n *Network) place(link netlink.Link, mac net.HardwareAddr) error {
	if err := n.links.LinkSetLearning(link, false); err != nil {
		return fmt.Errorf("learn nothing from it: %w", err)
	}
	err := n.links.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("write its place into the bridge: %w", err)
	}
	return nil
}
