package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// writer appends netlink attributes (struct nlattr, linux/netlink.h) to a buffer. Lengths of nested ones are filled in
// when they end.
type writer struct{ buf []byte }

func (w *writer) pad() {
	for len(w.buf)%unix.NLA_ALIGNTO != 0 {
		w.buf = append(w.buf, 0)
	}
}

func (w *writer) bytes(kind uint16, value []byte) {
	w.buf = binary.NativeEndian.AppendUint16(w.buf, uint16(unix.NLA_HDRLEN+len(value)))
	w.buf = binary.NativeEndian.AppendUint16(w.buf, kind)
	w.buf = append(w.buf, value...)
	w.pad()
}

func (w *writer) text(kind uint16, value string) {
	w.buf = binary.NativeEndian.AppendUint16(w.buf, uint16(unix.NLA_HDRLEN+len(value)+1))
	w.buf = binary.NativeEndian.AppendUint16(w.buf, kind)
	w.buf = append(w.buf, value...)
	w.buf = append(w.buf, 0)
	w.pad()
}

// number writes an integer as nftables has them: big endian.
func (w *writer) number(kind uint16, value uint32) {
	w.buf = binary.NativeEndian.AppendUint16(w.buf, unix.NLA_HDRLEN+4)
	w.buf = binary.NativeEndian.AppendUint16(w.buf, kind)
	w.buf = binary.BigEndian.AppendUint32(w.buf, value)
}

// open begins a nested attribute; close ends it, given what open returned.
func (w *writer) open(kind uint16) int {
	at := len(w.buf)
	w.buf = binary.NativeEndian.AppendUint16(w.buf, 0)
	w.buf = binary.NativeEndian.AppendUint16(w.buf, kind|unix.NLA_F_NESTED)
	return at
}

func (w *writer) close(at int) {
	binary.NativeEndian.PutUint16(w.buf[at:], uint16(len(w.buf)-at))
}

// attributes calls f for each attribute of a message, until it returns false. Damaged ones end it.
func attributes(raw []byte, f func(kind uint16, value []byte) bool) {
	for len(raw) >= unix.NLA_HDRLEN {
		size := int(binary.NativeEndian.Uint16(raw))
		kind := binary.NativeEndian.Uint16(raw[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if size < unix.NLA_HDRLEN || size > len(raw) || !f(kind, raw[unix.NLA_HDRLEN:size]) {
			return
		}
		raw = raw[min(len(raw), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
}

// find returns the attribute of a kind, nil when there is none.
func find(raw []byte, kind uint16) (found []byte) {
	attributes(raw, func(k uint16, value []byte) bool {
		if k == kind {
			found = value
		}
		return k != kind
	})
	return found
}

// textOf reads a string as the kernel writes them: with a zero behind it.
func textOf(value []byte) string {
	for i, b := range value {
		if b == 0 {
			return string(value[:i])
		}
	}
	return string(value)
}
