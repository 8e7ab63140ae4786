package wal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"coracle/internal/store/engine"
)

// A file begins with fileHeader bytes: the magic 8, the kind 1, zeroes 3, a random salt 4. The salt
// goes into every checksum, so that no value a user stores can pass for a frame. A frame is
//
//	magic 4 | payload length 4 | record count 4 | CRC-32C of salt, length, count and payload 4 | payload
//
// little endian; a record in it is
//
//	revision uvarint | flags 1 | key length uvarint | key | [expiry varint] | [value length uvarint | value]
const (
	fileHeader  = 16
	frameHeader = 16

	flagDelete  = 1
	flagExpires = 2
)

var (
	fileMagic  = [8]byte{'c', 'o', 'r', 'a', 'c', 'l', 'e', 1}
	frameMagic = [4]byte{0xc0, 0x4a, 0xc1, 0xe5}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	kindLog      = 'L'
	kindSnapshot = 'S'
)

func newFileHeader(kind byte, salt uint32) []byte {
	h := make([]byte, fileHeader)
	copy(h, fileMagic[:])
	h[8] = kind
	binary.LittleEndian.PutUint32(h[12:], salt)
	return h
}

func newSalt() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint32(b[:])
}

func checkFileHeader(h []byte, kind byte) (salt uint32, err error) {
	switch {
	case len(h) < fileHeader:
		return 0, errors.New("file header is cut short")
	case [8]byte(h) != fileMagic:
		return 0, fmt.Errorf("not a store file of this version (magic %q)", h[:8])
	case h[8] != kind:
		return 0, fmt.Errorf("file is of kind %q, want %q", h[8], kind)
	}
	return binary.LittleEndian.Uint32(h[12:]), nil
}

func appendRecord(buf []byte, r *engine.Record) []byte {
	buf = binary.AppendUvarint(buf, uint64(r.Revision))
	var flags byte
	if r.Delete {
		flags |= flagDelete
	}
	if r.Expires != 0 {
		flags |= flagExpires
	}
	buf = append(buf, flags)
	buf = binary.AppendUvarint(buf, uint64(len(r.Key)))
	buf = append(buf, r.Key...)
	if r.Expires != 0 {
		buf = binary.AppendVarint(buf, r.Expires)
	}
	if !r.Delete {
		buf = binary.AppendUvarint(buf, uint64(len(r.Value)))
		buf = append(buf, r.Value...)
	}
	return buf
}

// openFrame and closeFrame surround the payload of a frame being built at the end of buf.
func openFrame(buf []byte) []byte { return append(buf, make([]byte, frameHeader)...) }

func closeFrame(buf []byte, start int, salt uint32, count int) ([]byte, error) {
	payload := buf[start+frameHeader:]
	if len(payload) > math.MaxUint32/2 {
		return nil, fmt.Errorf("wal: batch of %d bytes is too large", len(payload))
	}
	h := buf[start : start+frameHeader]
	copy(h, frameMagic[:])
	binary.LittleEndian.PutUint32(h[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(h[8:], uint32(count))
	binary.LittleEndian.PutUint32(h[12:], frameSum(salt, h, payload))
	return buf, nil
}

func frameSum(salt uint32, h, payload []byte) uint32 {
	return crc32.Update(crc32.Update(salt, castagnoli, h[4:12]), castagnoli, payload)
}

func appendFrame(buf []byte, salt uint32, batch []engine.Record) ([]byte, error) {
	start := len(buf)
	buf = openFrame(buf)
	for i := range batch {
		buf = appendRecord(buf, &batch[i])
	}
	return closeFrame(buf, start, salt, len(batch))
}

var errShort = errors.New("record is cut short")

// decodeRecord reads one record; its Value points into p.
func decodeRecord(p []byte) (r engine.Record, rest []byte, err error) {
	rev, n := binary.Uvarint(p)
	if n <= 0 || rev == 0 || rev > math.MaxInt64 {
		return r, nil, errors.New("bad revision")
	}
	p = p[n:]
	if len(p) == 0 {
		return r, nil, errShort
	}
	flags := p[0]
	p = p[1:]
	if flags&^(flagDelete|flagExpires) != 0 {
		return r, nil, fmt.Errorf("unknown flags %#x", flags)
	}
	key, p, err := lengthPrefixed(p)
	if err != nil {
		return r, nil, fmt.Errorf("key: %w", err)
	}
	r.Revision, r.Key, r.Delete = int64(rev), string(key), flags&flagDelete != 0
	if flags&flagExpires != 0 {
		r.Expires, n = binary.Varint(p)
		if n <= 0 {
			return r, nil, errors.New("bad expiry")
		}
		p = p[n:]
	}
	if !r.Delete {
		if r.Value, p, err = lengthPrefixed(p); err != nil {
			return r, nil, fmt.Errorf("value: %w", err)
		}
	}
	return r, p, nil
}

func lengthPrefixed(p []byte) (data, rest []byte, err error) {
	size, n := binary.Uvarint(p)
	if n <= 0 || size > uint64(len(p)-n) {
		return nil, nil, errShort
	}
	end := n + int(size)
	return p[n:end:end], p[end:], nil
}

// decodePayload passes count records of a frame to fn.
func decodePayload(payload []byte, count uint32, fn func(engine.Record) error) error {
	for range count {
		r, rest, err := decodeRecord(payload)
		if err != nil {
			return badFrame(err.Error())
		}
		if err := fn(r); err != nil {
			return err
		}
		payload = rest
	}
	if len(payload) != 0 {
		return badFrame(fmt.Sprintf("%d bytes after the last record", len(payload)))
	}
	return nil
}
