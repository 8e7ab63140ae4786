package services

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
)

// layoutVersion changes with what is always in the table: a table of another version is written anew.
const layoutVersion = 1

// Registers of four bytes, NFT_REG32_00 and on. A key lies in consecutive ones.
const (
	r0 = iota + unix.NFT_REG32_00
	r1
	r2
	r3
	r4
	r5
	r6
)

var (
	destinationFields = []int{4, 1, 2}
	destinationType   = nft.Type(nft.TypeAddress, nft.TypeProtocol, nft.TypePort)
)

const endpointType = nft.TypeAddress<<6 | nft.TypePort

// maxSticky is how many clients are kept with their endpoints, over all services; further ones are led anywhere.
const maxSticky = 1 << 16

func sets() []nft.Set {
	var out []nft.Set
	for _, name := range []proxy.Set{proxy.Services, proxy.ServicesOutside} {
		out = append(out, nft.Set{Name: string(name), Key: destinationFields, KeyType: destinationType, Data: 4, DataType: nft.TypeClass})
	}
	for _, name := range []proxy.Set{proxy.Endpoints, proxy.EndpointsOutside} {
		out = append(out, nft.Set{
			Name: string(name), Key: []int{4, 1, 2, 4}, KeyType: destinationType<<6 | nft.TypeMark, Data: 8, DataType: endpointType,
		})
	}
	for _, name := range []proxy.Set{proxy.Sources, proxy.SourcesOutside} {
		out = append(out, nft.Set{Name: string(name), Key: []int{4, 1, 2, 4}, KeyType: destinationType<<6 | nft.TypeAddress, Intervals: true})
	}
	return append(out, []nft.Set{
		{Name: string(proxy.Classes), Key: []int{4}, KeyType: nft.TypeClass, Verdicts: true},
		{Name: string(refusals), Key: []int{4}, KeyType: nft.TypeClass, Verdicts: true},
		{Name: string(remembered), Key: []int{4}, KeyType: nft.TypeClass, Verdicts: true},
		{Name: string(proxy.Masquerade), Key: destinationFields, KeyType: destinationType},
		{Name: string(proxy.Hairpin), Key: []int{4, 4}, KeyType: nft.Type(nft.TypeAddress, nft.TypeAddress)},
		{
			Name: string(proxy.StickySet), Key: []int{4, 4, 1, 2}, KeyType: nft.Type(nft.TypeAddress)<<18 | destinationType,
			Data: 8, DataType: endpointType, Dynamic: true, Size: maxSticky,
		},
	}...)
}

// refusals are the classes without endpoints: their chains may stand where those of the others may not.
const refusals proxy.Set = "refusals"

// remembered are the classes whose clients stay with their endpoints, with the chains that remember them.
const remembered proxy.Set = "remembered"

// Chains that are always there.
const (
	chainInside   = "inside"
	chainOutside  = "outside"
	chainPass     = "pass"
	chainRemember = "remember"
	chainRefuse   = "refuse"
	chainReject   = "reject"
	chainDrop     = "drop"
)

// natAfterPorts is behind the host ports of pods (package pod) and before nothing: who publishes a port of the host has it.
const natAfterPorts = 5

// Priorities of nf_tables' hooks (linux/netfilter_ipv4.h).
const (
	priorityRaw = -300
	priorityDst = -100
	prioritySrc = 100
)

// build writes all that is in the table always.
func (c *Config) build(b *nft.Batch) {
	b.AddTable(c.note())
	for _, s := range sets() {
		b.AddSet(s)
	}
	for _, name := range []string{chainInside, chainOutside, chainPass, chainRemember, chainRefuse, chainReject, chainDrop} {
		b.AddChain(name, nil)
	}
	c.buildDispatch(b)
	c.buildRefusal(b)
	c.buildRemembering(b)
	c.buildPostrouting(b)
	c.buildGuard(b)
}

// note says by what the table was made.
func (c *Config) note() []byte {
	return fmt.Appendf(nil, "coracle services %d %s %s %s %s", layoutVersion, c.Bridge, c.Siblings, c.Services, c.Pods)
}

// buildDispatch leads new connections to the chain of their destination's class: from pods of the node, from outside, and
// from the node itself. What comes from the pods of another node of this machine is that node's.
func (c *Config) buildDispatch(b *nft.Batch) {
	b.AddChain("prerouting", &nft.Hook{Kind: "nat", Number: unix.NF_INET_PRE_ROUTING, Priority: priorityDst + natAfterPorts})
	b.AddRule("prerouting", join(fromLink(c.Bridge), gotoChain(chainInside))...)
	b.AddRule("prerouting", join(fromLinks(c.Siblings), accept())...)
	b.AddRule("prerouting", gotoChain(chainOutside)...)
	b.AddChain("output", &nft.Hook{Kind: "nat", Number: unix.NF_INET_LOCAL_OUT, Priority: priorityDst + natAfterPorts})
	b.AddRule("output", gotoChain(chainInside)...)

	addByClass(b, chainOutside, proxy.ServicesOutside, proxy.Classes, destination(r0, packetAddress))
	addByClass(b, chainOutside, proxy.ServicesOutside, proxy.Classes, localOnly(), destination(r0, anyAddress))
	b.AddRule(chainOutside, gotoChain(chainInside)...)
	addByClass(b, chainInside, proxy.Services, proxy.Classes, destination(r0, packetAddress))
	addByClass(b, chainInside, proxy.Services, proxy.Classes, localOnly(), destination(r0, anyAddress))
}

// buildRefusal answers for destinations that lead nowhere. Packets that were led elsewhere do not have such a destination
// any more, whoever led them.
func (c *Config) buildRefusal(b *nft.Batch) {
	for _, e := range []struct {
		class proxy.Number
		chain string
	}{{proxy.Refused, chainReject}, {proxy.Dropped, chainDrop}} {
		b.Add(string(refusals), nft.Element{Key: e.class.Bytes(), Goto: e.chain})
		// The table of another node of this machine may lead it still: this node only has nowhere.
		b.Add(string(proxy.Classes), nft.Element{Key: e.class.Bytes(), Goto: chainPass})
	}
	b.AddRule(chainPass, accept()...)
	b.AddRule(chainReject, join(protocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})...)
	b.AddRule(chainReject, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable})
	b.AddRule(chainDrop, &expr.Verdict{Kind: expr.VerdictDrop})

	for name, hook := range map[string]uint32{"refuse-forward": unix.NF_INET_FORWARD, "refuse-input": unix.NF_INET_LOCAL_IN, "refuse-output": unix.NF_INET_LOCAL_OUT} {
		b.AddChain(name, &nft.Hook{Kind: "filter", Number: hook, Priority: 0})
		b.AddRule(name, join(established(), accept())...)
		if hook != unix.NF_INET_LOCAL_OUT {
			b.AddRule(name, join(fromLink(c.Bridge), gotoChain(chainRefuse))...)
			b.AddRule(name, join(fromLinks(c.Siblings), accept())...)
		}
		b.AddRule(name, gotoChain(chainRefuse)...)
	}
	addByClass(b, chainRefuse, proxy.ServicesOutside, refusals, notLed(), localOnly(), destination(r0, anyAddress))
	addByClass(b, chainRefuse, proxy.Services, refusals, notLed(), localOnly(), destination(r0, anyAddress))
	addByClass(b, chainRefuse, proxy.ServicesOutside, refusals, destination(r0, packetAddress))
	addByClass(b, chainRefuse, proxy.Services, refusals, destination(r0, packetAddress))
	b.AddRule(chainRefuse, join(to(c.Services, expr.CmpOpEq), gotoChain(chainReject))...)
}

const icmpPortUnreachable = 3

// buildPostrouting gives packets the node's address where their answers would not come back otherwise.
func (c *Config) buildPostrouting(b *nft.Batch) {
	const name = "postrouting"
	b.AddChain(name, &nft.Hook{Kind: "nat", Number: unix.NF_INET_POST_ROUTING, Priority: prioritySrc - natAfterPorts})
	b.AddRule(name, join(notLed(), accept())...)
	b.AddRule(name, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainRemember})
	b.AddRule(name, join(from(loopback, expr.CmpOpEq), toLoopbackLink(expr.CmpOpNeq), []expr.Any{&expr.Masq{}})...)
	b.AddRule(name, join(addressPair(r0), inSet(r0, proxy.Hairpin), []expr.Any{&expr.Masq{}})...)
	b.AddRule(name, join(from(c.Pods, expr.CmpOpEq), accept())...)
	b.AddRule(name, join(localSource(), accept())...)
	b.AddRule(name, join(original(r0, packetAddress), inSet(r0, proxy.Masquerade), []expr.Any{&expr.Masq{}})...)
	b.AddRule(name, join(original(r0, anyAddress), inSet(r0, proxy.Masquerade), originalTo(c.Services, expr.CmpOpNeq), []expr.Any{&expr.Masq{}})...)
}

// buildGuard keeps pods from the node's loopback addresses, which route_localnet opens for the answers to node ports that
// were asked for at 127.0.0.1. No packet of a bridge has such an address by right.
func (c *Config) buildGuard(b *nft.Batch) {
	const name = "guard"
	b.AddChain(name, &nft.Hook{Kind: "filter", Number: unix.NF_INET_PRE_ROUTING, Priority: priorityRaw})
	b.AddRule(name, join(fromLink(c.Bridge), to(loopback, expr.CmpOpEq), gotoChain(chainDrop))...)
	b.AddRule(name, join(fromLink(c.Bridge), from(loopback, expr.CmpOpEq), gotoChain(chainDrop))...)
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// buildClass writes the chain of a class: how one of so many endpoints is chosen. Where the number of endpoints changes
// between the two looks of one packet, the first endpoint takes it.
func buildClass(b *nft.Batch, c proxy.Class, number proxy.Number) {
	name := c.Chain()
	b.AddChain(name, nil)
	address := packetAddress
	if c.Any {
		address = anyAddress
	}
	endpoints, sources := proxy.Endpoints, proxy.Sources
	if c.Outside {
		endpoints, sources = proxy.EndpointsOutside, proxy.SourcesOutside
	}
	if c.Checked {
		b.AddRule(name, join(destination(r0, address), sourceAddress(r3), []expr.Any{
			&expr.Lookup{SourceRegister: r0, SetName: string(sources), Invert: true}, &expr.Verdict{Kind: expr.VerdictDrop},
		})...)
	}
	random := []expr.Any{&expr.Numgen{Register: r4, Modulus: c.Endpoints, Type: unix.NFT_NG_RANDOM}}
	first := []expr.Any{&expr.Immediate{Register: r4, Data: make([]byte, 4)}}
	choices := [][]expr.Any{random, first}
	if c.Endpoints == 1 {
		choices = choices[1:]
	}
	if c.Sticky > 0 {
		buildSticky(b, c, address, number)
	}
	for _, choose := range choices {
		b.AddRule(name, join(destination(r1, address), choose, lookUp(r1, endpoints, r5), lead(r5))...)
	}
	b.Add(string(proxy.Classes), nft.Element{Key: number.Bytes(), Goto: name})
}

// buildSticky leads a client that is known to its endpoint, and has the others remembered once they are led: then both where
// they went and where they wanted to are fields of the packet. Whoever takes an endpoint away has its clients forgotten
// (forgetClients).
func buildSticky(b *nft.Batch, c proxy.Class, address [4]byte, number proxy.Number) {
	b.AddRule(c.Chain(), join(sourceAddress(r0), destination(r1, address), lookUp(r0, proxy.StickySet, r5), lead(r5))...)

	name := rememberChain(c)
	b.AddChain(name, nil)
	b.AddRule(name, join(sourceAddress(r0), original(r1, address), []expr.Any{
		&expr.Payload{DestRegister: r5, Base: expr.PayloadBaseNetworkHeader, Offset: destOffset, Len: 4},
		&expr.Payload{DestRegister: r6, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Dynset{
			SrcRegKey: r0, SrcRegData: r5, SetName: string(proxy.StickySet), Operation: unix.NFT_DYNSET_OP_UPDATE,
			Timeout: time.Duration(c.Sticky) * time.Second,
		},
	})...)
	b.Add(string(remembered), nft.Element{Key: number.Bytes(), Goto: name})
}

func rememberChain(c proxy.Class) string { return "remember-" + c.Chain() }

// buildRemembering has led connections of sticky classes remembered.
func (c *Config) buildRemembering(b *nft.Batch) {
	b.AddChain("input", &nft.Hook{Kind: "nat", Number: unix.NF_INET_LOCAL_IN, Priority: prioritySrc - natAfterPorts})
	b.AddRule("input", join(notLed(), accept())...)
	b.AddRule("input", &expr.Verdict{Kind: expr.VerdictJump, Chain: chainRemember})
	for _, from := range []proxy.Set{proxy.Services, proxy.ServicesOutside} {
		for _, address := range [][4]byte{packetAddress, anyAddress} {
			addByClass(b, chainRemember, from, remembered, original(r0, address))
		}
	}
}

func dropClass(b *nft.Batch, c proxy.Class, number proxy.Number) {
	b.Delete(string(proxy.Classes), nft.Element{Key: number.Bytes()})
	b.DeleteChain(c.Chain())
	if c.Sticky > 0 {
		b.Delete(string(remembered), nft.Element{Key: number.Bytes()})
		b.DeleteChain(rememberChain(c))
	}
}

var (
	anyAddress    = [4]byte{}
	packetAddress = [4]byte{255, 255, 255, 255}
)

// destination loads the key of a destination: the packet's address or none, its protocol and port.
func destination(at uint32, address [4]byte) []expr.Any {
	var out []expr.Any
	if address == anyAddress {
		out = append(out, &expr.Immediate{Register: at, Data: address[:]})
	} else {
		out = append(out, &expr.Payload{DestRegister: at, Base: expr.PayloadBaseNetworkHeader, Offset: destOffset, Len: 4})
	}
	out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at + 1})
	return append(out, &expr.Payload{DestRegister: at + 2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// original loads the destination that a connection was first sent to.
func original(at uint32, address [4]byte) []expr.Any {
	var out []expr.Any
	if address == anyAddress {
		out = append(out, &expr.Immediate{Register: at, Data: address[:]})
	} else {
		out = append(out, &expr.Ct{Register: at, Key: nft.OriginalAddress})
	}
	return append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at + 1}, &expr.Ct{Register: at + 2, Key: expr.CtKeyPROTODST})
}

func originalTo(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return join([]expr.Any{&expr.Ct{Register: r4, Key: nft.OriginalAddress}}, within(r4, p, op))
}

// addByClass follows the class of a destination to its chain; where there is none it goes on with the next rule. Between the
// two the number of the class is the packet's priority, which matters to nobody: only the first packet of a connection
// comes here, forwarding gives it another, and the chains put it back. (Data of one map that are the next one's key take
// no such detour, but make nft(8) of older versions fail when it lists the table.)
func addByClass(b *nft.Batch, chain string, from, chains proxy.Set, key ...[]expr.Any) {
	b.AddRule(chain, join(join(key...), lookUp(r0, from, r4), setPriority(r4))...)
	b.AddRule(chain, &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: r0},
		&expr.Lookup{SourceRegister: r0, DestRegister: 0, IsDestRegSet: true, SetName: string(chains)})
}

func setPriority(from uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: from}}
}

func lookUp(key uint32, set proxy.Set, into uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: key, DestRegister: into, IsDestRegSet: true, SetName: string(set)}}
}

func inSet(key uint32, set proxy.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: key, SetName: string(set)}}
}

// lead sends the packet to the endpoint at a register.
func lead(at uint32) []expr.Any {
	return join([]expr.Any{&expr.Immediate{Register: r0, Data: make([]byte, 4)}}, setPriority(r0), []expr.Any{
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: at, RegProtoMin: at + 1},
	})
}

// Offsets in the IPv4 header (RFC 791).
const (
	sourceOffset = 12
	destOffset   = 16
)

func sourceAddress(at uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: at, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: 4}}
}

func addressPair(at uint32) []expr.Any {
	return join(sourceAddress(at), []expr.Any{&expr.Payload{DestRegister: at + 1, Base: expr.PayloadBaseNetworkHeader, Offset: destOffset, Len: 4}})
}

func from(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return join(sourceAddress(r0), within(r0, p, op))
}

func to(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return join([]expr.Any{&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseNetworkHeader, Offset: destOffset, Len: 4}}, within(r0, p, op))
}

func within(at uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	first := p.Masked().Addr().As4()
	return []expr.Any{
		&expr.Bitwise{SourceRegister: at, DestRegister: at, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: at, Data: first[:]},
	}
}

// localOnly goes on for packets to an address of the node; localSource, for those from one.
func localOnly() []expr.Any {
	return addressKind(&expr.Fib{Register: r0, FlagDADDR: true, ResultADDRTYPE: true})
}

func localSource() []expr.Any {
	return addressKind(&expr.Fib{Register: r0, FlagSADDR: true, ResultADDRTYPE: true})
}

func addressKind(f *expr.Fib) []expr.Any {
	return []expr.Any{f, &expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}}
}

func protocol(n byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0}, &expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{n}}}
}

// fromLink goes on for packets of a link, fromLinks for those of all links whose names begin so.
func fromLink(name string) []expr.Any {
	return linkNamed(append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...))
}

func fromLinks(prefix string) []expr.Any { return linkNamed([]byte(prefix)) }

func linkNamed(name []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1}, &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: name}}
}

func toLoopbackLink(op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...)},
	}
}

// Bits of a connection's state and status (linux/netfilter/nf_conntrack_common.h).
const (
	stateEstablished = 1 << 1
	stateRelated     = 1 << 2
	statusLed        = 1 << 5 // IPS_DST_NAT
)

func established() []expr.Any {
	return ctBits(expr.CtKeySTATE, stateEstablished|stateRelated, expr.CmpOpNeq)
}

// notLed goes on for packets whose destination nobody has changed.
func notLed() []expr.Any { return ctBits(expr.CtKeySTATUS, statusLed, expr.CmpOpEq) }

func ctBits(key expr.CtKey, bits uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: r0, Key: key},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: r0, Data: make([]byte, 4)},
	}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func gotoChain(name string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: name}}
}

func join(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
