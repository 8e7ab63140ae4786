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
)

// maxSticky is how many clients are kept with their endpoints, over all services; further ones are led anywhere.
const maxSticky = 1 << 16

func (v wire) sets() []nft.Set {
	a := int(v.size)
	destinationFields, destinationType := []int{a, 1, 2}, nft.Type(v.address, nft.TypeProtocol, nft.TypePort)
	endpoint, endpointType := a+4, nft.Type(v.address, nft.TypePort)
	var out []nft.Set
	for _, name := range []proxy.Set{proxy.Services, proxy.ServicesOutside} {
		out = append(out, nft.Set{Name: string(name), Key: destinationFields, KeyType: destinationType, Data: 4, DataType: nft.TypeClass})
	}
	for _, name := range []proxy.Set{proxy.Endpoints, proxy.EndpointsOutside} {
		out = append(out, nft.Set{
			Name: string(name), Key: []int{a, 1, 2, 4}, KeyType: destinationType<<6 | nft.TypeMark, Data: endpoint, DataType: endpointType,
		})
	}
	for _, name := range []proxy.Set{proxy.Sources, proxy.SourcesOutside} {
		out = append(out, nft.Set{Name: string(name), Key: []int{a, 1, 2, a}, KeyType: destinationType<<6 | v.address, Intervals: true})
	}
	return append(out, []nft.Set{
		{Name: string(proxy.Classes), Key: []int{4}, KeyType: nft.TypeClass, Verdicts: true},
		{Name: string(refusals), Key: []int{4}, KeyType: nft.TypeClass, Verdicts: true},
		{Name: string(remembered), Key: []int{4}, KeyType: nft.TypeClass, Verdicts: true},
		{Name: string(proxy.Masquerade), Key: destinationFields, KeyType: destinationType},
		{Name: string(proxy.Hairpin), Key: []int{a, a}, KeyType: nft.Type(v.address, v.address)},
		{
			Name: string(proxy.StickySet), Key: []int{a, a, 1, 2}, KeyType: nft.Type(v.address)<<18 | destinationType,
			Data: endpoint, DataType: endpointType, Dynamic: true, Size: maxSticky,
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

// layout is what writes the rules of a family.
type layout struct {
	wire
	*Config
}

// build writes all that is in the table always.
func (r *Router) build(b *nft.Batch) {
	c, ranges, names := &r.cfg, append([]netip.Prefix{r.cfg.Services}, r.more...), r.names()
	b.AddTable(r.note())
	for _, s := range r.wire.sets() {
		b.AddSet(s)
	}
	for _, name := range []string{chainInside, chainOutside, chainPass, chainRemember, chainRefuse, chainReject, chainDrop} {
		b.AddChain(name, nil)
	}
	l := layout{r.wire, c}
	l.buildDispatch(b)
	l.buildRefusal(b, ranges)
	l.buildRemembering(b)
	l.buildPostrouting(b, ranges)
	l.buildGuard(b)
	if names.IsValid() {
		l.buildNames(b, names)
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
func (c layout) buildDispatch(b *nft.Batch) {
	b.AddChain("prerouting", &nft.Hook{Kind: "nat", Number: unix.NF_INET_PRE_ROUTING, Priority: priorityDst + natAfterPorts})
	b.AddRule("prerouting", join(fromLink(c.Bridge), gotoChain(chainInside))...)
	b.AddRule("prerouting", join(fromLinks(c.Siblings), accept())...)
	b.AddRule("prerouting", gotoChain(chainOutside)...)
	b.AddChain("output", &nft.Hook{Kind: "nat", Number: unix.NF_INET_LOCAL_OUT, Priority: priorityDst + natAfterPorts})
	c.leaveLoopback(b, "output")
	b.AddRule("output", gotoChain(chainInside)...)

	c.addByClass(b, chainOutside, proxy.ServicesOutside, proxy.Classes, c.destination(r0, packetAddress))
	c.addByClass(b, chainOutside, proxy.ServicesOutside, proxy.Classes, localOnly(), c.destination(r0, anyAddress))
	b.AddRule(chainOutside, gotoChain(chainInside)...)
	c.addByClass(b, chainInside, proxy.Services, proxy.Classes, c.destination(r0, packetAddress))
	c.addByClass(b, chainInside, proxy.Services, proxy.Classes, localOnly(), c.destination(r0, anyAddress))
}

// leaveLoopback leaves alone what is sent to ::1: the kernel would not take the answers, which come from a pod's link, and a
// process answers there instead (package relay). 127.0.0.0/8 it can lead.
func (c layout) leaveLoopback(b *nft.Batch, chain string) {
	if c.wire.family == proxy.IPv6 {
		b.AddRule(chain, join(c.to(loopbacks[proxy.IPv6], expr.CmpOpEq), accept())...)
	}
}

// buildRefusal answers for destinations that lead nowhere. Packets that were led elsewhere do not have such a destination
// any more, whoever led them.
func (c layout) buildRefusal(b *nft.Batch, ranges []netip.Prefix) {
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
	b.AddRule(chainReject, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: c.unreachable})
	b.AddRule(chainDrop, &expr.Verdict{Kind: expr.VerdictDrop})

	for name, hook := range map[string]uint32{"refuse-forward": unix.NF_INET_FORWARD, "refuse-input": unix.NF_INET_LOCAL_IN, "refuse-output": unix.NF_INET_LOCAL_OUT} {
		b.AddChain(name, &nft.Hook{Kind: "filter", Number: hook, Priority: 0})
		b.AddRule(name, join(known(), accept())...)
		c.leaveLoopback(b, name)
		if hook != unix.NF_INET_LOCAL_OUT {
			b.AddRule(name, join(fromLink(c.Bridge), gotoChain(chainRefuse))...)
			b.AddRule(name, join(fromLinks(c.Siblings), accept())...)
		}
		b.AddRule(name, gotoChain(chainRefuse)...)
	}
	c.addByClass(b, chainRefuse, proxy.ServicesOutside, refusals, notLed(), localOnly(), c.destination(r0, anyAddress))
	c.addByClass(b, chainRefuse, proxy.Services, refusals, notLed(), localOnly(), c.destination(r0, anyAddress))
	c.addByClass(b, chainRefuse, proxy.ServicesOutside, refusals, c.destination(r0, packetAddress))
	c.addByClass(b, chainRefuse, proxy.Services, refusals, c.destination(r0, packetAddress))
	for _, p := range ranges {
		b.AddRule(chainRefuse, join(c.to(p, expr.CmpOpEq), gotoChain(chainReject))...)
	}
}

// buildPostrouting gives packets the node's address where their answers would not come back otherwise.
func (c layout) buildPostrouting(b *nft.Batch, ranges []netip.Prefix) {
	const name = "postrouting"
	b.AddChain(name, &nft.Hook{Kind: "nat", Number: unix.NF_INET_POST_ROUTING, Priority: prioritySrc - natAfterPorts})
	b.AddRule(name, join(notLed(), accept())...)
	b.AddRule(name, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainRemember})
	b.AddRule(name, join(c.from(loopbacks[c.family], expr.CmpOpEq), toLoopbackLink(expr.CmpOpNeq), []expr.Any{&expr.Masq{}})...)
	b.AddRule(name, join(c.addressPair(r0), inSet(r0, proxy.Hairpin), []expr.Any{&expr.Masq{}})...)
	b.AddRule(name, join(c.from(c.Pods, expr.CmpOpEq), accept())...)
	b.AddRule(name, join(localSource(), accept())...)
	b.AddRule(name, join(c.first(r0, packetAddress), inSet(r0, proxy.Masquerade), []expr.Any{&expr.Masq{}})...)
	for _, p := range ranges {
		b.AddRule(name, join(c.firstTo(p, expr.CmpOpEq), accept())...)
	}
	b.AddRule(name, join(c.first(r0, anyAddress), inSet(r0, proxy.Masquerade), []expr.Any{&expr.Masq{}})...)
}

// buildGuard keeps pods from the node's loopback addresses, which route_localnet opens for the answers to node ports that
// were asked for at 127.0.0.1. No packet of a bridge has such an address by right.
func (c layout) buildGuard(b *nft.Batch) {
	const name = "guard"
	b.AddChain(name, &nft.Hook{Kind: "filter", Number: unix.NF_INET_PRE_ROUTING, Priority: priorityRaw})
	b.AddRule(name, join(fromLink(c.Bridge), c.to(loopbacks[c.family], expr.CmpOpEq), gotoChain(chainDrop))...)
	b.AddRule(name, join(fromLink(c.Bridge), c.from(loopbacks[c.family], expr.CmpOpEq), gotoChain(chainDrop))...)
}

// buildNames keeps connection tracking from questions for names and their answers, which nobody translates: each would take
// a place in the kernel's memory of connections for half a minute, of which there are not many more than a busy node asks
// in a second, and questions of one socket would race for it.
func (c layout) buildNames(b *nft.Batch, at netip.Addr) {
	for name, hook := range map[string]uint32{"names-in": unix.NF_INET_PRE_ROUTING, "names-out": unix.NF_INET_LOCAL_OUT} {
		b.AddChain(name, &nft.Hook{Kind: "filter", Number: hook, Priority: priorityRaw})
		only := netip.PrefixFrom(at, at.BitLen())
		b.AddRule(name, join(protocol(unix.IPPROTO_UDP), portAt(destPort, namesPort), c.to(only, expr.CmpOpEq), []expr.Any{&expr.Notrack{}})...)
		b.AddRule(name, join(protocol(unix.IPPROTO_UDP), portAt(sourcePort, namesPort), c.from(only, expr.CmpOpEq), []expr.Any{&expr.Notrack{}})...)
	}
}

// namesPort is that of the Domain Name System (RFC 1035 4.2.1).
const namesPort = 53

var loopbacks = map[proxy.Family]netip.Prefix{
	proxy.IPv4: netip.MustParsePrefix("127.0.0.0/8"), proxy.IPv6: netip.PrefixFrom(netip.IPv6Loopback(), 128),
}

// buildClass writes the chain of a class: how one of so many endpoints is chosen. Where the number of endpoints changes
// between the two looks of one packet, the first endpoint takes it.
func (v wire) buildClass(b *nft.Batch, c proxy.Class, number proxy.Number) {
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
		b.AddRule(name, join(v.destination(r0, address), v.sourceAddress(r0+v.words+2), []expr.Any{
			&expr.Lookup{SourceRegister: r0, SetName: string(sources), Invert: true}, &expr.Verdict{Kind: expr.VerdictDrop},
		})...)
	}
	// Behind the destination comes the number of the endpoint, and then what it leads to.
	const key = r1
	number0, led := key+v.words+2, key+v.words+3
	random := []expr.Any{&expr.Numgen{Register: number0, Modulus: c.Endpoints, Type: unix.NFT_NG_RANDOM}}
	first := []expr.Any{&expr.Immediate{Register: number0, Data: make([]byte, 4)}}
	choices := [][]expr.Any{random, first}
	if c.Endpoints == 1 {
		choices = choices[1:]
	}
	if c.Sticky > 0 {
		v.buildSticky(b, c, address, number)
	}
	for _, choose := range choices {
		b.AddRule(name, join(v.destination(key, address), choose, lookUp(key, endpoints, led), v.lead(led))...)
	}
	b.Add(string(proxy.Classes), nft.Element{Key: number.Bytes(), Goto: name})
}

// buildSticky leads a client that is known to its endpoint, and has the others remembered once they are led: then both where
// they went and where they wanted to are fields of the packet. Whoever takes an endpoint away has its clients forgotten
// (forgetClients).
func (v wire) buildSticky(b *nft.Batch, c proxy.Class, address which, number proxy.Number) {
	wanted, led := r0+v.words, r0+2*v.words+3
	b.AddRule(c.Chain(), join(v.sourceAddress(r0), v.destination(wanted, address), lookUp(r0, proxy.StickySet, led), v.lead(led))...)

	name := rememberChain(c)
	b.AddChain(name, nil)
	b.AddRule(name, join(v.sourceAddress(r0), v.first(wanted, address), v.headerAddress(led, v.dest), []expr.Any{
		&expr.Payload{DestRegister: led + v.words, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Dynset{
			SrcRegKey: r0, SrcRegData: led, SetName: string(proxy.StickySet), Operation: unix.NFT_DYNSET_OP_UPDATE,
			Timeout: time.Duration(c.Sticky) * time.Second,
		},
	})...)
	b.Add(string(remembered), nft.Element{Key: number.Bytes(), Goto: name})
}

func rememberChain(c proxy.Class) string { return "remember-" + c.Chain() }

// buildRemembering has led connections of sticky classes remembered.
func (c layout) buildRemembering(b *nft.Batch) {
	b.AddChain("input", &nft.Hook{Kind: "nat", Number: unix.NF_INET_LOCAL_IN, Priority: prioritySrc - natAfterPorts})
	b.AddRule("input", join(notLed(), accept())...)
	b.AddRule("input", &expr.Verdict{Kind: expr.VerdictJump, Chain: chainRemember})
	for _, from := range []proxy.Set{proxy.Services, proxy.ServicesOutside} {
		for _, address := range []which{packetAddress, anyAddress} {
			c.addByClass(b, chainRemember, from, remembered, c.first(r0, address))
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
