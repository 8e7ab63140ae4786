package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"coracle/internal/store/engine"
)

// A frame is one batch, little endian:
//
//	magic 4 | payload length 4 | record count 4 | CRC-32C of salt and payload 4 |
//	CRC-32C of salt, the frame's offset in the file, and the 16 bytes before 4 | payload
//
// With a checksum of its own, the header of a frame is proof that a batch was written here, whatever
// became of its payload. A record in the payload is
//
//	revision uvarint | flags 1 | key length uvarint | key | [expiry varint] | [value length uvarint | value]
//
// A frame of version 1 has one checksum, of salt, length, count and payload.
const (
	frameHeader    = 20
	oldFrameHeader = 16

	// frameMax bounds a frame, and with it what a write that was cut short can leave behind.
	frameMax = 64 << 20

	flagDelete  = 1
	flagExpires = 2
)

var frameMagic = [4]byte{0xc0, 0x4a, 0xc1, 0xe5}

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

// openFrame and closeFrame surround the payload of a frame being built at the end of buf; offset
// is where in the file the frame will be.
func openFrame(buf []byte) []byte { return append(buf, make([]byte, frameHeader)...) }

func closeFrame(buf []byte, start int, salt uint32, offset int64, count int) ([]byte, error) {
	payload := buf[start+frameHeader:]
	if len(payload) > frameMax-frameHeader {
		return nil, fmt.Errorf("a batch of %d bytes is too large: at most %d are written at once", len(payload), frameMax)
	}
	h := buf[start : start+frameHeader]
	copy(h, frameMagic[:])
	binary.LittleEndian.PutUint32(h[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(h[8:], uint32(count))
	binary.LittleEndian.PutUint32(h[12:], crc32.Update(salt, castagnoli, payload))
	binary.LittleEndian.PutUint32(h[16:], headSum(salt, offset, h))
	return buf, nil
}

// headSum is the checksum of a frame's header. The offset is mixed into the salt.
func headSum(salt uint32, offset int64, h []byte) uint32 {
	return crc32.Update(salt^uint32(offset)^uint32(offset>>32), castagnoli, h[:16])
}

// oldFrameSum is the checksum of a frame of version 1.
func oldFrameSum(salt uint32, h, payload []byte) uint32 {
	return crc32.Update(crc32.Update(salt, castagnoli, h[4:12]), castagnoli, payload)
}

func appendFrame(buf []byte, salt uint32, offset int64, batch []engine.Record) ([]byte, error) {
	start := len(buf)
	buf = openFrame(buf)
	for i := range batch {
		buf = appendRecord(buf, &batch[i])
	}
	return closeFrame(buf, start, salt, offset, len(batch))
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
