package services

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
)

// layoutVersion changes with what is always in the table: a table of another version is written anew.
const layoutVersion = 2

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
func (r *Router) build(b *nft.Batch) {
	c, ranges, names := &r.cfg, append([]netip.Prefix{r.cfg.Services}, r.more...), r.names()
	b.AddTable(r.note())
	for _, s := range sets() {
		b.AddSet(s)
	}
	for _, name := range []string{chainInside, chainOutside, chainPass, chainRemember, chainRefuse, chainReject, chainDrop} {
		b.AddChain(name, nil)
	}
	c.buildDispatch(b)
	c.buildRefusal(b, ranges)
	c.buildRemembering(b)
	c.buildPostrouting(b, ranges)
	c.buildGuard(b)
	if names.IsValid() {
		buildNames(b, names)
	}
}

// note says by what the table was made.
func (r *Router) note() []byte {
	c := &r.cfg
	out := fmt.Appendf(nil, "coracle services %d %s %s %s %s %s", layoutVersion, c.Bridge, c.Siblings, c.Services, c.Pods, r.names())
	for _, p := range r.more {
		out = fmt.Appendf(out, " %s", p)
	}
	return out
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
func (c *Config) buildRefusal(b *nft.Batch, ranges []netip.Prefix) {
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
		b.AddRule(name, join(known(), accept())...)
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
	for _, p := range ranges {
		b.AddRule(chainRefuse, join(to(p, expr.CmpOpEq), gotoChain(chainReject))...)
	}
}

const icmpPortUnreachable = 3

// buildPostrouting gives packets the node's address where their answers would not come back otherwise.
func (c *Config) buildPostrouting(b *nft.Batch, ranges []netip.Prefix) {
	const name = "postrouting"
	b.AddChain(name, &nft.Hook{Kind: "nat", Number: unix.NF_INET_POST_ROUTING, Priority: prioritySrc - natAfterPorts})
	b.AddRule(name, join(notLed(), accept())...)
	b.AddRule(name, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainRemember})
	b.AddRule(name, join(from(loopback, expr.CmpOpEq), toLoopbackLink(expr.CmpOpNeq), []expr.Any{&expr.Masq{}})...)
	b.AddRule(name, join(addressPair(r0), inSet(r0, proxy.Hairpin), []expr.Any{&expr.Masq{}})...)
	b.AddRule(name, join(from(c.Pods, expr.CmpOpEq), accept())...)
	b.AddRule(name, join(localSource(), accept())...)
	b.AddRule(name, join(original(r0, packetAddress), inSet(r0, proxy.Masquerade), []expr.Any{&expr.Masq{}})...)
	for _, p := range ranges {
		b.AddRule(name, join(originalTo(p, expr.CmpOpEq), accept())...)
	}
	b.AddRule(name, join(original(r0, anyAddress), inSet(r0, proxy.Masquerade), []expr.Any{&expr.Masq{}})...)
}

// buildGuard keeps pods from the node's loopback addresses, which route_localnet opens for the answers to node ports that
// were asked for at 127.0.0.1. No packet of a bridge has such an address by right.
func (c *Config) buildGuard(b *nft.Batch) {
	const name = "guard"
	b.AddChain(name, &nft.Hook{Kind: "filter", Number: unix.NF_INET_PRE_ROUTING, Priority: priorityRaw})
	b.AddRule(name, join(fromLink(c.Bridge), to(loopback, expr.CmpOpEq), gotoChain(chainDrop))...)
	b.AddRule(name, join(fromLink(c.Bridge), from(loopback, expr.CmpOpEq), gotoChain(chainDrop))...)
}

// buildNames keeps connection tracking from questions for names and their answers, which nobody translates: each would take
// a place in the kernel's memory of connections for half a minute, of which there are not many more than a busy node asks
// in a second, and questions of one socket would race for it.
func buildNames(b *nft.Batch, at netip.Addr) {
	for name, hook := range map[string]uint32{"names-in": unix.NF_INET_PRE_ROUTING, "names-out": unix.NF_INET_LOCAL_OUT} {
		b.AddChain(name, &nft.Hook{Kind: "filter", Number: hook, Priority: priorityRaw})
		only := netip.PrefixFrom(at, at.BitLen())
		b.AddRule(name, join(protocol(unix.IPPROTO_UDP), portAt(destPort, namesPort), to(only, expr.CmpOpEq), []expr.Any{&expr.Notrack{}})...)
		b.AddRule(name, join(protocol(unix.IPPROTO_UDP), portAt(sourcePort, namesPort), from(only, expr.CmpOpEq), []expr.Any{&expr.Notrack{}})...)
	}
}

// namesPort is that of the Domain Name System (RFC 1035 4.2.1).
const namesPort = 53

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
