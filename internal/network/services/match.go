package services

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
)

// which is the address of a destination's key: the packet's, or the one that stands for every address of the node.
type which bool

const (
	anyAddress    which = false
	packetAddress which = true
)

// wire is how packets of a family are looked at. An address takes words registers, a destination words+2: a key lies in
// consecutive ones.
type wire struct {
	family       proxy.Family
	table        byte
	words        uint32
	size         uint32
	source, dest uint32 // offsets in the header (RFC 791, RFC 8200)
	original     expr.CtKey
	address      uint32 // what nft(8) takes one for
	unreachable  uint8  // "port unreachable" (RFC 792, RFC 4443)
}

var wires = map[proxy.Family]wire{
	proxy.IPv4: {
		family: proxy.IPv4, table: unix.NFPROTO_IPV4, words: 1, size: 4, source: 12, dest: 16, original: nft.OriginalAddress, address: nft.TypeAddress, unreachable: 3,
	},
	proxy.IPv6: {
		family: proxy.IPv6, table: unix.NFPROTO_IPV6, words: 4, size: 16, source: 8, dest: 24, original: nft.OriginalAddress6, address: nft.TypeAddress6, unreachable: 4,
	},
}

// destination loads the key of a destination: the packet's address or none, its protocol and port.
func (v wire) destination(at uint32, address which) []expr.Any {
	out := v.headerAddress(at, v.dest)
	if address == anyAddress {
		out = []expr.Any{&expr.Immediate{Register: at, Data: make([]byte, v.size)}}
	}
	out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at + v.words})
	return append(out, &expr.Payload{DestRegister: at + v.words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// first loads the destination that a connection was first sent to.
func (v wire) first(at uint32, address which) []expr.Any {
	var out []expr.Any
	if address == anyAddress {
		out = append(out, &expr.Immediate{Register: at, Data: make([]byte, v.size)})
	} else {
		out = append(out, &expr.Ct{Register: at, Key: v.original})
	}
	return append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at + v.words}, &expr.Ct{Register: at + v.words + 1, Key: expr.CtKeyPROTODST})
}

func (v wire) firstTo(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return join([]expr.Any{&expr.Ct{Register: r4, Key: v.original}}, within(r4, p, op))
}

// addByClass follows the class of a destination to its chain; where there is none it goes on with the next rule. Between the
// two the number of the class is the packet's priority, which matters to nobody: only the first packet of a connection
// comes here, forwarding gives it another, and the chains put it back. (Data of one map that are the next one's key take
// no such detour, but make nft(8) of older versions fail when it lists the table.)
func (v wire) addByClass(b *nft.Batch, chain string, from, chains proxy.Set, key ...[]expr.Any) {
	class := r0 + v.words + 3
	b.AddRule(chain, join(join(key...), lookUp(r0, from, class), setPriority(class))...)
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
func (v wire) lead(at uint32) []expr.Any {
	return join([]expr.Any{&expr.Immediate{Register: r0, Data: make([]byte, 4)}}, setPriority(r0), []expr.Any{
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(v.table), RegAddrMin: at, RegProtoMin: at + v.words},
	})
}

func (v wire) headerAddress(at, offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: at, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: v.size}}
}

func (v wire) sourceAddress(at uint32) []expr.Any { return v.headerAddress(at, v.source) }

func (v wire) addressPair(at uint32) []expr.Any {
	return join(v.sourceAddress(at), v.headerAddress(at+v.words, v.dest))
}

func (v wire) from(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return join(v.sourceAddress(r0), within(r0, p, op))
}

func (v wire) to(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return join(v.headerAddress(r0, v.dest), within(r0, p, op))
}

func within(at uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	size := p.Addr().BitLen() / 8
	return []expr.Any{
		&expr.Bitwise{SourceRegister: at, DestRegister: at, Len: uint32(size), Mask: net.CIDRMask(p.Bits(), 8*size), Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: at, Data: p.Masked().Addr().AsSlice()},
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

// Offsets of ports in the headers of TCP and UDP (RFC 9293, RFC 768).
const (
	sourcePort = 0
	destPort   = 2
)

func portAt(offset uint32, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
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
	stateUntracked   = 1 << 6
	statusLed        = 1 << 5 // IPS_DST_NAT
)

// known goes on for packets that need no look: of connections that had one, and those that somebody has kept from connection
// tracking, as buildNames does, so that nobody leads them anywhere.
func known() []expr.Any {
	return ctBits(expr.CtKeySTATE, stateEstablished|stateRelated|stateUntracked, expr.CmpOpNeq)
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
