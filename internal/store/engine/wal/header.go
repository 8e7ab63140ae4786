package wal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
)

// A file begins with headerSize bytes, little endian:
//
//	magic 8 | kind 1 | zeroes 3 | salt 4 | store's identity 16 | number 8 |
//	predecessor's number 8 | predecessor's end 8 | predecessor's salt 4 | zeroes | CRC-32C of all before 4
//
// The salt is random and goes into every checksum of the file, so that no value a user stores can
// pass for a frame. A file of version 1 has a header of oldHeaderSize bytes that ends after the
// salt and has no checksum: such files are read, never written.
const (
	headerSize    = 128
	oldHeaderSize = 16

	kindLog      = 'L'
	kindSnapshot = 'S'
)

var (
	fileMagic    = [8]byte{'c', 'o', 'r', 'a', 'c', 'l', 'e', 2}
	oldFileMagic = [8]byte{'c', 'o', 'r', 'a', 'c', 'l', 'e', 1}
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

// identity tells one store's files from another's.
type identity [16]byte

func newIdentity() (id identity) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// String is the identity in hexadecimal; the zero identity is empty.
func (id identity) String() string {
	if id == (identity{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

func newSalt() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint32(b[:])
}

// link names a log and how much of it was durable when it was sealed. Each log carries the link of
// the one before it, each snapshot that of the last log it holds: so a file that is missing, cut, or of
// another time is seen by its successor.
type link struct {
	number int64
	end    int64
	salt   uint32
}

// header is what a file says of itself.
type header struct {
	kind     byte
	old      bool // of version 1: only kind and salt are known
	salt     uint32
	identity identity
	number   int64 // of a log the first revision it may hold, of a snapshot the last
	previous link
}

// size is where the first frame begins.
func (h *header) size() int64 {
	if h.old {
		return oldHeaderSize
	}
	return headerSize
}

func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, fileMagic[:])
	b[8] = h.kind
	binary.LittleEndian.PutUint32(b[12:], h.salt)
	copy(b[16:32], h.identity[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(h.number))
	binary.LittleEndian.PutUint64(b[40:], uint64(h.previous.number))
	binary.LittleEndian.PutUint64(b[48:], uint64(h.previous.end))
	binary.LittleEndian.PutUint32(b[56:], h.previous.salt)
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	return b
}

// decodeHeader reads the header at the beginning of b, which is a file's first headerSize bytes, or
// fewer where the file is shorter.
func decodeHeader(b []byte, kind byte) (h header, err error) {
	if len(b) < oldHeaderSize {
		return h, errors.New("the file header is cut short")
	}
	h.kind, h.salt = b[8], binary.LittleEndian.Uint32(b[12:])
	switch [8]byte(b) {
	case oldFileMagic:
		h.old = true
		if [3]byte(b[9:12]) != [3]byte{} {
			return h, errors.New("the file header is damaged")
		}
	case fileMagic:
		if len(b) < headerSize {
			return h, errors.New("the file header is cut short")
		}
		if crc32.Checksum(b[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
			return h, errors.New("the checksum of the file header does not match")
		}
		h.identity = identity(b[16:32])
		h.number = int64(binary.LittleEndian.Uint64(b[32:]))
		h.previous.number = int64(binary.LittleEndian.Uint64(b[40:]))
		h.previous.end = int64(binary.LittleEndian.Uint64(b[48:]))
		h.previous.salt = binary.LittleEndian.Uint32(b[56:])
	default:
		return h, fmt.Errorf("not a store file of this version (magic %q)", b[:8])
	}
	if h.kind != kind {
		return h, fmt.Errorf("the file is of kind %q, want %q", h.kind, kind)
	}
	return h, nil
}
