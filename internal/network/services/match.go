package services

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
)

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
