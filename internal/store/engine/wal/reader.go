package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"coracle/internal/store/engine"
)

// reader reads a file in order, each payload into memory of its own, which may be kept.
type reader struct {
	f    File
	head header
	size int64
	off  int64
	buf  []byte // read ahead
}

const readAhead = 256 << 10

// next returns the following n bytes, fewer at the end of the file. What it returns may be kept:
// large pieces get memory of just their size, so that they pin nothing else.
func (r *reader) next(n int64) ([]byte, error) {
	n = min(n, r.size-r.off)
	have := int64(len(r.buf))
	if large := n >= readAhead/8; large || have < n {
		want := n
		if !large {
			want = min(readAhead, r.size-r.off)
		}
		buf := make([]byte, max(want, n))
		copied := int64(copy(buf, r.buf))
		if copied < want {
			if m, err := r.f.ReadAt(buf[copied:], r.off+copied); err != nil && !(errors.Is(err, io.EOF) && int64(m) == want-copied) {
				return nil, err
			}
		}
		if large {
			r.buf = r.buf[min(n, have):]
			r.off += n
			return buf, nil
		}
		r.buf = buf
	}
	out := r.buf[:n:n]
	r.buf = r.buf[n:]
	r.off += n
	return out, nil
}

// seek goes on at off.
func (r *reader) seek(off int64) { r.off, r.buf = off, nil }

// badFrame says why the bytes at a position are no sound frame.
type badFrame string

func (b badFrame) Error() string { return string(b) }

// header reads the file's header and stands at the first frame then.
func (r *reader) header(kind byte) error {
	b, err := r.next(headerSize)
	if err != nil {
		return err
	}
	if r.head, err = decodeHeader(b, kind); err != nil {
		return badFrame(err.Error())
	}
	r.seek(r.head.size())
	return nil
}

// frame returns the next payload; a badFrame error if there is no sound frame here.
func (r *reader) frame() (payload []byte, count uint32, err error) {
	h, length, err := r.frameHeader()
	if err != nil {
		return nil, 0, err
	}
	if length > r.size-r.off {
		return nil, 0, badFrame(fmt.Sprintf("a batch of %d bytes reaches past the end of the file", length))
	}
	if payload, err = r.next(length); err != nil {
		return nil, 0, err
	}
	sum := binary.LittleEndian.Uint32(h[12:])
	got := crc32.Update(r.head.salt, castagnoli, payload)
	if r.head.old {
		got = oldFrameSum(r.head.salt, h, payload)
	}
	if got != sum {
		return nil, 0, badFrame("the checksum of a batch does not match")
	}
	return payload, binary.LittleEndian.Uint32(h[8:]), nil
}

// frameHeader reads the header of the next frame, and returns the length of its payload. In a file
// of version 1 that length is not vouched for.
func (r *reader) frameHeader() (h []byte, length int64, err error) {
	at, size := r.off, int64(frameHeader)
	if r.head.old {
		size = oldFrameHeader
	}
	if h, err = r.next(size); err != nil {
		return nil, 0, err
	}
	switch {
	case int64(len(h)) < size:
		return nil, 0, badFrame("a batch is cut short")
	case [4]byte(h) != frameMagic:
		return nil, 0, badFrame(fmt.Sprintf("no batch begins here (found % x)", h[:4]))
	case !r.head.old && headSum(r.head.salt, at, h) != binary.LittleEndian.Uint32(h[16:]):
		return nil, 0, badFrame("the checksum of a batch's header does not match")
	}
	return h, int64(binary.LittleEndian.Uint32(h[4:])), nil
}

// scan passes the records of a log to fn. end is the offset after the last sound frame; bad says
// why the bytes at end are no frame, empty when only zeroes follow.
func scan(r *reader, fn func(engine.Record) error) (end int64, bad string, err error) {
	for end = r.off; end < r.size; end = r.off {
		payload, count, err := r.frame()
		var damage badFrame
		if errors.As(err, &damage) {
			last, err := lastByte(r.f, end, r.size)
			if err != nil || last < end {
				return end, "", err
			}
			return end, string(damage), nil
		}
		if err == nil {
			err = decodePayload(payload, count, fn)
		}
		if err != nil {
			return end, "", err
		}
	}
	return end, "", nil
}

// lastByte returns the position of the last byte in [from, to) that is not zero, or one before from.
func lastByte(f File, from, to int64) (int64, error) {
	buf := make([]byte, max(min(to-from, int64(len(zeroes))), 0))
	for to > from {
		n := min(to-from, int64(len(buf)))
		if err := readFull(f, buf[:n], to-n); err != nil {
			return 0, err
		}
		if !bytes.Equal(buf[:n], zeroes[:n]) {
			for i := n - 1; ; i-- {
				if buf[i] != 0 {
					return to - n + i, nil
				}
			}
		}
		to -= n
	}
	return from - 1, nil
}

// unfinished tells whether the bytes from end on, which are no sound frame, can be a single write
// that was cut short. A batch is written only once the one before is durable, into zeroes: what is longer
// than one batch, or has a batch behind it, was acknowledged. It returns why not, or "".
func unfinished(r *reader, end int64) (why string, err error) {
	last, err := lastByte(r.f, end, r.size)
	if err != nil {
		return "", err
	}
	if last-end >= frameMax {
		return fmt.Sprintf("%d damaged bytes are more than one batch", last-end+1), nil
	}
	if r.head.old && end == oldHeaderSize {
		return "nothing in the file can be read", nil // its salt is not vouched for: it may be that which is damaged
	}
	r.seek(end)
	h, length, err := r.frameHeader()
	var damage badFrame
	if err != nil && !errors.As(err, &damage) {
		return "", err
	}
	if err == nil && last >= end+int64(len(h))+length {
		return "bytes follow the damaged batch", nil
	}
	rest := make([]byte, last+1-end)
	if err := readFull(r.f, rest, end); err != nil {
		return "", err
	}
	return batchBehind(r, end, rest)
}

// batchBehind looks for a frame in rest, which begins at offset end, after its first byte.
func batchBehind(r *reader, end int64, rest []byte) (why string, err error) {
	for at := 1; at < len(rest); at++ {
		i := bytes.Index(rest[at:], frameMagic[:])
		if i < 0 {
			break
		}
		at += i
		r.seek(end + int64(at))
		if r.head.old {
			_, _, err = r.frame()
		} else {
			_, _, err = r.frameHeader() // vouched for by itself
		}
		var damage badFrame
		if err == nil {
			return fmt.Sprintf("another batch follows at byte %d", end+int64(at)), nil
		}
		if !errors.As(err, &damage) {
			return "", err
		}
	}
	return "", nil
}
