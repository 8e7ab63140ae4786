// Package wal is the built-in engine: a write-ahead log with checksummed frames, and a compacted
// file beside it.
//
// It owns the files of one directory: log-N.wal (records from revision N on), snap-N.snap (what
// was live of the records up to N) and LOCK. One frame is one committed batch, written to
// preallocated zeroes and made durable by one fdatasync. It refuses to repair: a damaged frame
// followed by a sound one was acknowledged once, so Load stops and names file and byte; only a
// torn end, which no one was told of, is cut off.
//
// docs/design/0002-store-engine.md tells why this is not a library.
package wal

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"coracle/internal/store/engine"
)

// Options configure an Engine.
type Options struct {
	// Dir holds the files; it is made when absent.
	Dir string
	// FS is the file system; nil is the operating system's.
	FS FS
}

const (
	growMin = 1 << 20 // zeroes laid out ahead of the log, at first
	growMax = 4 << 20 // and at most at a time
)

// Engine implements engine.Engine.
type Engine struct {
	fs   FS
	dir  string
	lock io.Closer

	mu       sync.Mutex
	active   File
	name     string
	number   int64 // first revision it may hold
	salt     uint32
	off      int64 // end of the durable frames of the active log
	reserved int64 // end of the zeroes laid out
	last     int64 // newest durable revision
	sealed   []segment
	snapshot segment // newest; name is empty when there is none
	buf      []byte
	failed   error
	loaded   bool

	compacted  atomic.Int64 // what Size returns
	since      atomic.Int64
	closing    atomic.Bool
	compacting sync.Mutex
}

// segment is a file that is not written any more.
type segment struct {
	name   string
	number int64
	size   int64
}

var _ engine.Engine = (*Engine)(nil)

// Open takes the directory for this process; another that holds it is an error.
func Open(opts Options) (*Engine, error) {
	if opts.FS == nil {
		opts.FS = OS{}
	}
	if err := opts.FS.MkdirAll(opts.Dir); err != nil {
		return nil, fmt.Errorf("store directory: %w", err)
	}
	lock, err := opts.FS.Lock(opts.Dir + "/LOCK")
	if err != nil {
		return nil, fmt.Errorf("store directory %s is in use: %w", opts.Dir, err)
	}
	return &Engine{fs: opts.FS, dir: opts.Dir, lock: lock}, nil
}

func (e *Engine) path(name string) string { return e.dir + "/" + name }

// Commit implements engine.Engine.
func (e *Engine) Commit(batch []engine.Record) error {
	if len(batch) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil {
		return e.failed
	}
	if !e.loaded {
		return errors.New("wal: Commit before Load")
	}
	if batch[0].Revision <= e.last {
		return fmt.Errorf("wal: revision %d is not after %d", batch[0].Revision, e.last)
	}
	buf, err := appendFrame(e.buf[:0], e.salt, batch)
	if err != nil {
		return err
	}
	if cap(buf) <= growMax {
		e.buf = buf[:0]
	}
	if err := e.reserve(e.off + int64(len(buf))); err != nil {
		return err
	}
	if _, err := e.active.WriteAt(buf, e.off); err != nil {
		return e.wipe(int64(len(buf)), fmt.Errorf("write %s: %w", e.name, err))
	}
	if err := e.active.Datasync(); err != nil {
		// The kernel may have dropped the pages and will not tell twice.
		return e.fail(fmt.Errorf("sync %s: %w", e.name, err))
	}
	e.off += int64(len(buf))
	e.since.Add(int64(len(buf)))
	e.last = batch[len(batch)-1].Revision
	return nil
}

// reserve lays out zeroes up to end at least, so that a commit writes over existing blocks: the
// sync then has no metadata to write, and a full disk shows before anything is half written.
func (e *Engine) reserve(end int64) error {
	if end <= e.reserved {
		return nil
	}
	if ahead := e.reserved + min(max(e.reserved, growMin), growMax); ahead > end && e.extend(ahead) == nil {
		return nil
	}
	if e.failed != nil {
		return e.failed
	}
	return e.extend(end) // the disk may be nearly full: take no more than needed
}

func (e *Engine) extend(to int64) error {
	err := writeZeroes(e.active, e.reserved, to)
	if err == nil {
		e.reserved = to
		return nil
	}
	if terr := e.active.Truncate(e.reserved); terr != nil {
		return e.fail(fmt.Errorf("extend %s: %w", e.name, errors.Join(err, terr)))
	}
	return fmt.Errorf("extend %s: %w", e.name, err)
}

// wipe undoes a failed write, so that a restart cannot find what was refused.
func (e *Engine) wipe(n int64, cause error) error {
	if err := writeZeroes(e.active, e.off, e.off+n); err != nil {
		return e.fail(errors.Join(cause, err))
	}
	if err := e.active.Datasync(); err != nil {
		return e.fail(errors.Join(cause, err))
	}
	return cause
}

func (e *Engine) fail(err error) error {
	e.failed = fmt.Errorf("%w: %w", engine.ErrFatal, err)
	return e.failed
}

var zeroes [256 << 10]byte

func writeZeroes(f File, from, to int64) error {
	for from < to {
		n := min(to-from, int64(len(zeroes)))
		if _, err := f.WriteAt(zeroes[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// Size implements engine.Engine. It does not wait for a commit under way.
func (e *Engine) Size() (compacted, since int64) { return e.compacted.Load(), e.since.Load() }

// measure must be called with e.mu held, after any change of the files.
func (e *Engine) measure() {
	since := e.off
	for _, s := range e.sealed {
		since += s.size
	}
	e.compacted.Store(e.snapshot.size)
	e.since.Store(since)
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.closing.Store(true)
	e.compacting.Lock()
	defer e.compacting.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed == nil {
		e.failed = errors.New("wal: closed")
	}
	var errs []error
	if e.active != nil {
		errs = append(errs, e.active.Close())
		e.active = nil
	}
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
		e.lock = nil
	}
	return errors.Join(errs...)
}
