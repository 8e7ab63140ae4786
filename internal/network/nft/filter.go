package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// mostMessages is how many messages of a datagram the filter looks at; one that has more is let through. The kernel puts as many
// into one as 4 KiB take: some forty elements.
const mostMessages = 64

// Offsets in a message (linux/netlink.h): of struct nlmsghdr, and of the value of the first attribute behind struct nfgenmsg. In
// what nftables tells of tables, chains, rules, sets, elements and objects that is the name of the table.
const (
	portOffset  = 12
	tableOffset = headerSize + unix.NLA_HDRLEN
)

// hear has the kernel deliver only what others do to a table: not what was caused by the socket of a number, for whoever writes
// a hundred thousand elements need not read of them; and not what is done to other tables, for which nobody here
// need wake: each node of a machine has its own, and so has whoever else uses nftables.
func readMessages(fd int, own uint32, table string) error {
	var err error
	for most := mostMessages; most > 0; most /= 2 {
		if err = attach(fd, othersOf(own, table, most)); !errors.Is(err, unix.ENOMEM) {
			break // older kernels allow a socket 20 KiB of programs
		}
	}
	if err != nil {
		return fmt.Errorf("filter of the nftables watch: %w", err)
	}
	return nil
}

func attach(fd int, instructions []bpf.Instruction) error {
	raw, err := bpf.Assemble(instructions)
	if err != nil {
		return err
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// othersOf is the filter. A datagram has the messages of one transaction, whose tables may differ; X is where the message looked
// at begins.
func othersOf(own uint32, table string, most int) []bpf.Instruction {
	refuse, take := bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: 1<<32 - 1}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: portOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: asLoaded(own), SkipFalse: 1},
		refuse,
		bpf.LoadConstant{Dst: bpf.RegX, Val: 0},
	}
	for range most {
		program = append(program, bpf.LoadExtension{Num: bpf.ExtLen}, bpf.JumpIfX{Cond: bpf.JumpGreaterThan, SkipTrue: 1}, refuse)
		program = append(program, unlessNamed(table)...)
		program = append(program, take)
		program = append(program, nextMessage()...)
	}
	return append(program, take)
}

// unlessNamed goes over the instruction behind it unless the message names a table, or one whose name ends alike: that does no
// harm, and the end is where the names of nodes' tables differ. What lies beyond the datagram's end ends the program:
// then the name is another, and no message follows.
func unlessNamed(table string) (out []bpf.Instruction) {
	const looked = 8
	text := append([]byte(table), 0)
	for at := max(0, len(text)-looked); at < len(text); {
		size := 4
		for size > len(text)-at {
			size /= 2
		}
		var want uint32
		for _, b := range text[at : at+size] {
			want = want<<8 | uint32(b)
		}
		out = append(out, bpf.LoadIndirect{Off: tableOffset + uint32(at), Size: size}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: want})
		at += size
	}
	for i, in := range out {
		if j, ok := in.(bpf.JumpIf); ok {
			j.SkipFalse = uint8(len(out) - i)
			out[i] = j
		}
	}
	return out
}

// nextMessage moves X to the next message. The length of one is in the machine's byte order, and never needs more than two bytes.
func nextMessage() []bpf.Instruction {
	low, high := uint32(0), uint32(1)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low, high = 3, 2
	}
	return []bpf.Instruction{
		bpf.StoreScratch{Src: bpf.RegX, N: 0},
		bpf.LoadIndirect{Off: high, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 8},
		bpf.StoreScratch{Src: bpf.RegA, N: 1},
		bpf.LoadIndirect{Off: low, Size: 1},
		bpf.LoadScratch{Dst: bpf.RegX, N: 1},
		bpf.ALUOpX{Op: bpf.ALUOpOr},
		bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: unix.NLMSG_ALIGNTO - 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(unix.NLMSG_ALIGNTO - 1)},
		bpf.LoadScratch{Dst: bpf.RegX, N: 0},
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.TAX{},
	}
}

// asLoaded is a number of the machine's byte order as the filter reads it: big endian.
func asLoaded(n uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, n))
}
