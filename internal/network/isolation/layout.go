package isolation

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/network/nft"
	"coracle/internal/network/policy"
)

// layoutVersion changes with what is always in the table, and with what chains of a name hold: a table of another version is
// written anew.
const layoutVersion = 1

// The sets that are always there: the chains of what pods send and of what they get, and each pod with itself.
const (
	setEgress  = "egress"
	setIngress = "ingress"
	setSelf    = "self"
)

var membersOf = map[policy.Direction]string{policy.Egress: setEgress, policy.Ingress: setIngress}

// note says by what the table was made.
func (c *Config) note() []byte {
	return fmt.Appendf(nil, "coracle policies %d %s", layoutVersion, c.Bridge)
}

// write has the kernel do what a delta says, in one transaction; what nothing refers to yet may go before it, where it is much.
func (i *Isolation) write(d *policy.Delta) error {
	fresh := !i.held.there
	b := nft.NewBatch(i.cfg.table())
	if fresh {
		b.AddTable(i.cfg.note())
		if i.damaged {
			b.DeleteTable()
			b.AddTable(i.cfg.note())
		}
	}
	for _, c := range d.Sets {
		if err := i.writeSet(b, &c); err != nil {
			return err
		}
		if b.Len() > maxBatch && !i.damaged {
			if err := i.socket.Commit(b); err != nil {
				return err
			}
			b = nft.NewBatch(i.cfg.table())
		}
	}
	v := i.wire
	if fresh {
		b.AddSet(nft.Set{Name: setEgress, Key: []int{v.size}, KeyType: v.address, Verdicts: true})
		b.AddSet(nft.Set{Name: setIngress, Key: []int{v.size}, KeyType: v.address, Verdicts: true})
		b.AddSet(nft.Set{Name: setSelf, Key: []int{v.size, v.size}, KeyType: nft.Type(v.address, v.address)})
	}
	for _, name := range sorted(d.Chains) {
		v.writeChain(b, name, d.Chains[name])
	}
	i.writeMembers(b, d)
	if fresh {
		v.buildBase(b, i.cfg.Bridge)
	}
	for _, name := range d.GoneChains {
		b.DeleteChain(name)
	}
	for _, name := range d.GoneSets {
		b.DeleteSet(name)
	}
	if i.damaged {
		i.rebuilt.Add(1)
	}
	return i.socket.Commit(b)
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (i *Isolation) writeSet(b *nft.Batch, c *policy.SetChange) error {
	if c.New {
		v := i.wire
		set := nft.Set{Name: c.Name, Key: []int{v.size}, KeyType: v.address, Intervals: c.Shape == policy.Ranges}
		if c.Shape == policy.Endpoints {
			set.Key, set.KeyType = []int{v.size, 2}, nft.Type(v.address, nft.TypePort)
		}
		b.AddSet(set)
	}
	for _, e := range c.Remove {
		if i.wire.has(e.First) {
			i.written.Add(1)
			b.Delete(c.Name, nft.Element{Key: keyOf(c.Shape, e)})
		}
	}
	for _, e := range c.Add {
		if !i.wire.has(e.First) {
			continue // the other family's table has it
		}
		i.written.Add(1)
		b.Add(c.Name, nft.Element{Key: keyOf(c.Shape, e)})
		if behind := e.Last.Next(); c.Shape == policy.Ranges && behind.IsValid() {
			b.Add(c.Name, nft.Element{Key: behind.AsSlice(), Ends: true})
		}
	}
	return nil
}

func keyOf(shape policy.Shape, e policy.Element) []byte {
	a := e.First.AsSlice()
	if shape == policy.Endpoints {
		return append(binary.BigEndian.AppendUint16(a, e.Port), 0, 0)
	}
	return a
}

func (v wire) elementOf(shape policy.Shape, e nft.Element) (policy.Element, error) {
	want := v.size
	if shape == policy.Endpoints {
		want += 4
	}
	if len(e.Key) != want {
		return policy.Element{}, fmt.Errorf("an element of %d bytes: %w", len(e.Key), errDamaged)
	}
	at, _ := netip.AddrFromSlice(e.Key[:v.size])
	out := policy.Element{First: at, Last: at}
	if shape == policy.Endpoints {
		out.Port = binary.BigEndian.Uint16(e.Key[v.size:])
	}
	return out, nil
}

// writeMembers puts addresses under their chains. Who is a member is known to be himself.
func (i *Isolation) writeMembers(b *nft.Batch, d *policy.Delta) {
	members := make([]policy.Member, 0, len(d.Members))
	for m := range d.Members {
		if i.wire.has(m.Addr) {
			members = append(members, m)
		}
	}
	slices.SortFunc(members, func(a, b policy.Member) int {
		if a.Direction != b.Direction && a.Direction == policy.Egress {
			return -1
		} else if a.Direction != b.Direction {
			return 1
		}
		return a.Addr.Compare(b.Addr)
	})
	for _, m := range members {
		key := m.Addr.AsSlice()
		self := nft.Element{Key: append(slices.Clone(key), key...)}
		was, now := i.held.members[m] != "" && i.held.there, d.Members[m] != ""
		if was {
			b.Delete(membersOf[m.Direction], nft.Element{Key: key})
		}
		if now {
			b.Add(membersOf[m.Direction], nft.Element{Key: key, Goto: d.Members[m]})
		}
		i.written.Add(1)
		if m.Direction != policy.Ingress {
			continue
		}
		switch {
		case now && !was:
			b.Add(setSelf, self)
		case was && !now:
			b.Delete(setSelf, self)
		}
	}
}

// buildBase writes what leads packets to the chain of the pod that sends or gets them. What neither belongs to a pod nor to
// one that is known is dropped, of whatever connection. What the node itself sends comes by no such way.
//
// Of IPv6, packets by which neighbours are found (RFC 4861) pass: no pod is reached by them.
func (v wire) buildBase(b *nft.Batch, bridge string) {
	for _, base := range []struct {
		name string
		hook nft.Hook
		link expr.MetaKey
		// offset is that of the pod's address.
		offset uint32
		set    string
	}{
		{"forward-from", nft.Hook{Kind: "filter", Number: unix.NF_INET_FORWARD, Priority: 0}, expr.MetaKeyIIFNAME, v.source, setEgress},
		{"input-from", nft.Hook{Kind: "filter", Number: unix.NF_INET_LOCAL_IN, Priority: 0}, expr.MetaKeyIIFNAME, v.source, setEgress},
		{"forward-to", nft.Hook{Kind: "filter", Number: unix.NF_INET_FORWARD, Priority: 1}, expr.MetaKeyOIFNAME, v.dest, setIngress},
	} {
		b.AddChain(base.name, &base.hook)
		on := []expr.Any{
			&expr.Meta{Key: base.link, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: append([]byte(bridge), make([]byte, unix.IFNAMSIZ-len(bridge))...)},
		}
		if v.table == unix.NFPROTO_IPV6 && base.hook.Number == unix.NF_INET_LOCAL_IN {
			b.AddRule(base.name, join(on, neighbours(), verdict(expr.VerdictAccept))...)
		}
		b.AddRule(base.name, join(on, v.load(r0, base.offset), []expr.Any{
			&expr.Lookup{SourceRegister: r0, DestRegister: 0, IsDestRegSet: true, SetName: base.set},
		})...)
		b.AddRule(base.name, join(on, verdict(expr.VerdictDrop))...)
	}
}

// writeChain writes the rules of some pods: what goes on and what a pod sends itself passes, then what is allowed; the rest is
// dropped.
func (v wire) writeChain(b *nft.Batch, name string, rules policy.Chain) {
	b.AddChain(name, nil)
	b.AddRule(name, join(established(), verdict(expr.VerdictAccept))...)
	b.AddRule(name, join(v.load(r0, v.source), v.load(r0+v.words(), v.dest), inSet(r0, setSelf), verdict(expr.VerdictAccept))...)
	far := v.dest
	if d, _ := policy.DirectionOf(name); d == policy.Ingress {
		far = v.source
	}
	for _, a := range rules {
		b.AddRule(name, join(ports(a.Ports), v.peer(a.Set, far), verdict(expr.VerdictAccept))...)
	}
	b.AddRule(name, verdict(expr.VerdictDrop)...)
}

// ports goes on for packets of a protocol to some of its ports; for a name's, the set has those.
func ports(p *policy.Ports) []expr.Any {
	if p == nil {
		return nil
	}
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{protocols[p.Protocol]}},
	}
	if p.First == 0 && (p.Last == 0 || p.Last == 65535) {
		return out
	}
	first, last := binary.BigEndian.AppendUint16(nil, p.First), binary.BigEndian.AppendUint16(nil, p.Last)
	out = append(out, destinationPort(r0))
	if p.First == p.Last {
		return append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: first})
	}
	return append(out, &expr.Range{Op: expr.CmpOpEq, Register: r0, FromData: first, ToData: last})
}

var protocols = map[corev1.Protocol]byte{
	corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP,
}

// peer goes on for packets whose far end is in a set.
func (v wire) peer(set string, far uint32) []expr.Any {
	if set == "" {
		return nil
	}
	if shape, _ := policy.ShapeOf(set); shape == policy.Endpoints {
		return join(v.load(r0, v.dest), []expr.Any{destinationPort(r0 + v.words())}, inSet(r0, set))
	}
	return join(v.load(r0, far), inSet(r0, set))
}

// r0 is the first register of four bytes (NFT_REG32_00). A key lies in consecutive ones.
const r0 = uint32(unix.NFT_REG32_00)

// wire is how packets of a family are looked at.
type wire struct {
	table        byte
	conntrack    netlink.InetFamily
	size         int    // of an address, in bytes
	source, dest uint32 // offsets in the header (RFC 791, RFC 8200)
	address      uint32 // what nft(8) takes one for
}

var (
	wire4 = wire{unix.NFPROTO_IPV4, unix.AF_INET, 4, 12, 16, nft.TypeAddress}
	wire6 = wire{unix.NFPROTO_IPV6, unix.AF_INET6, 16, 8, 24, nft.TypeAddress6}
)

// has says whether an address is of the family.
func (v wire) has(a netip.Addr) bool { return a.BitLen() == 8*v.size }

// words is how many registers an address takes.
func (v wire) words() uint32 { return uint32(v.size) / 4 }

func (v wire) load(at, offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: at, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(v.size)}}
}

// neighbours goes on for the questions and answers by which a link's addresses are found: types 135 and 136 of ICMPv6.
func neighbours() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: r0, FromData: []byte{135}, ToData: []byte{136}},
	}
}

func destinationPort(at uint32) expr.Any {
	return &expr.Payload{DestRegister: at, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func inSet(key uint32, set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: key, SetName: set}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// Bits of a connection's state (linux/netfilter/nf_conntrack_common.h).
const stateEstablished, stateRelated = 1 << 1, 1 << 2

func established() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: r0, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: r0, DestRegister: r0, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(stateEstablished | stateRelated), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r0, Data: make([]byte, 4)},
	}
}

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }
