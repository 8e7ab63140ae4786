package wal

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"coracle/internal/store/engine"
)

// The mark is a small file of its own that says that a store was begun, which one, and how far it
// was acknowledged. It is written over in place after every commit, and left to the kernel to bring to the
// disk: it is exact for as long as the machine runs, whatever becomes of the process, and a lower bound
// after a power loss. It is synced when a log is begun or extended, and when the store is closed.
//
// It has two places, each within a sector of its own, that are written in turn: a write that fails half-way
// leaves the one before.
const (
	markSize  = 128
	markPlace = 512 // from one place to the other
)

var markMagic = [8]byte{'c', 'o', 'r', 'a', 'c', 'm', 'r', 1}

// mark is the content of the mark's file.
type mark struct {
	turn     uint64 // counts the writes
	identity identity
	boot     identity // of the machine that wrote it, zero when not known
	revision int64    // the newest that was acknowledged
	log      link     // the log that holds it, and where in it the acknowledged part ends
	clean    bool     // the store was closed, nothing was under way
}

func (m *mark) encode(b *[markSize]byte) {
	copy(b[:], markMagic[:])
	if b[8] = 0; m.clean {
		b[8] = 1
	}
	copy(b[16:32], m.identity[:])
	copy(b[32:48], m.boot[:])
	binary.LittleEndian.PutUint64(b[48:], uint64(m.revision))
	binary.LittleEndian.PutUint64(b[56:], uint64(m.log.number))
	binary.LittleEndian.PutUint64(b[64:], uint64(m.log.end))
	binary.LittleEndian.PutUint32(b[72:], m.log.salt)
	binary.LittleEndian.PutUint64(b[80:], m.turn)
	binary.LittleEndian.PutUint32(b[markSize-4:], crc32.Checksum(b[:markSize-4], castagnoli))
}

func decodeMark(b []byte) (m mark, err error) {
	switch {
	case len(b) < markSize:
		return m, errors.New("the mark is cut short")
	case [8]byte(b) != markMagic:
		return m, fmt.Errorf("not a mark of this version (magic %q)", b[:8])
	case crc32.Checksum(b[:markSize-4], castagnoli) != binary.LittleEndian.Uint32(b[markSize-4:]):
		return m, errors.New("the checksum of the mark does not match")
	}
	m.clean = b[8] == 1
	m.identity, m.boot = identity(b[16:32]), identity(b[32:48])
	m.revision = int64(binary.LittleEndian.Uint64(b[48:]))
	m.log.number = int64(binary.LittleEndian.Uint64(b[56:]))
	m.log.end = int64(binary.LittleEndian.Uint64(b[64:]))
	m.log.salt = binary.LittleEndian.Uint32(b[72:])
	m.turn = binary.LittleEndian.Uint64(b[80:])
	return m, nil
}

// bootIdentity stands for the time in which what was written is there though it was not synced.
func bootIdentity(boot string) (id identity) {
	if boot == "" {
		return id
	}
	sum := sha256.Sum256([]byte(boot))
	return identity(sum[:])
}

// readMark returns the mark's content; found is false when there is no such file.
func (e *Engine) readMark() (m mark, found bool, err error) {
	f, err := e.fs.Open(e.mark)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("open the store's mark: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return m, false, err
	}
	b := make([]byte, min(size, markPlace+markSize))
	if err := readFull(f, b, 0); err != nil {
		return m, false, fmt.Errorf("read %s: %w", e.mark, bare(err))
	}
	if m, err = newestMark(b); err != nil {
		return m, true, &engine.DamageError{File: e.mark, Reason: err.Error()}
	}
	return m, true, nil
}

// newestMark returns the sound one of two places that was written last.
func newestMark(b []byte) (mark, error) {
	first, err := decodeMark(b)
	second, err2 := decodeMark(b[min(markPlace, len(b)):])
	switch {
	case err != nil && err2 != nil:
		return mark{}, err
	case err == nil && err2 == nil:
		if second.turn > first.turn {
			return second, nil
		}
		return first, nil
	case err != nil:
		first = second
	}
	// The other may have been one write further. It was acknowledged only if it was written whole.
	first.boot, first.clean = identity{}, false
	return first, nil
}

// openMark opens the mark for writing, and makes it where there is none: it is there whole or not at all.
func (e *Engine) openMark(exists bool) error {
	if exists {
		f, err := e.fs.Open(e.mark)
		if err != nil {
			return fmt.Errorf("open the store's mark: %w", err)
		}
		e.markFile = f
		return e.setMark(false, true)
	}
	e.turn = 0
	tmp := e.mark + ".tmp"
	f, err := e.fs.Create(tmp)
	if err != nil {
		return fmt.Errorf("make the store's mark: %w", err)
	}
	e.markFile = f
	if err := errors.Join(e.setMark(false, false), e.setMark(false, true)); err != nil {
		return err
	}
	if err := e.fs.Rename(tmp, e.mark); err != nil {
		return fmt.Errorf("make the store's mark: %w", err)
	}
	if err := e.fs.SyncDir(parent(e.mark)); err != nil {
		return fmt.Errorf("make the store's mark: %w", err)
	}
	return nil
}

// setMark notes what is durable now. It needs e.mu held.
func (e *Engine) setMark(clean, sync bool) error {
	e.turn++
	m := mark{
		turn: e.turn, identity: e.identity, boot: e.boot, revision: e.last, clean: clean,
		log: link{number: e.number, end: e.off, salt: e.salt},
	}
	m.encode(&e.markBuf)
	if _, err := e.markFile.WriteAt(e.markBuf[:], int64(e.turn%2)*markPlace); err != nil {
		return fmt.Errorf("write %s: %w", e.mark, bare(err))
	}
	if !sync {
		return nil
	}
	if err := e.markFile.Datasync(); err != nil {
		return fmt.Errorf("sync %s: %w", e.mark, bare(err))
	}
	return nil
}
