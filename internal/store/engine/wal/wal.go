// Package wal is the built-in engine: a write-ahead log with checksummed frames, and a compacted
// file beside it.
//
// It owns the files of one directory: log-N.wal (records from revision N on), snap-N.snap (what
// was live of the records up to N), reserve and reserve.log (room for a compaction on a full disk) and LOCK; and,
// outside of it, the mark, which says that the store was begun and how far it was acknowledged. One frame is one
// committed batch, written to preallocated zeroes and made durable by one fdatasync.
//
// It refuses to take damage for newness: what was acknowledged and is not there any more, is of another
// store or of another time, stops Load with the file's name, and nothing is changed. It refuses to repair,
// but for Salvage, which builds another store from what can be read. Only an unfinished write after
// all that was acknowledged is cut off.
//
// docs/design/0002-store-engine.md tells why this is not a library, 0011 what damage is seen and what cannot be.
package wal

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"coracle/internal/store/engine"
)

// Options configure an Engine.
type Options struct {
	// Dir holds the files; it is made when absent.
	Dir string
	// Mark is the file of the mark; empty is "mark" in Dir. It is better kept elsewhere: then it tells
	// that Dir is gone, or an older copy.
	Mark string
	// Identity is the store that must be there; empty takes any.
	Identity string
	// Begun says that there is a store, so that finding nothing is damage. Without it an empty Dir without a
	// mark becomes a new store.
	Begun bool
	// After is the revision after which a new store begins.
	After int64
	// Ahead is how many bytes of zeroes are laid out ahead of a new log; 0 is 1 MiB. A quarter of them is
	// left for batches that add nothing, when the disk is full.
	Ahead int64
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
	mark string
	opts Options
	boot identity
	lock io.Closer

	mu       sync.Mutex
	identity identity
	active   File
	markFile File
	markBuf  [markSize]byte
	turn     uint64 // of the mark's last write
	name     string
	number   int64 // first revision it may hold
	salt     uint32
	off      int64 // end of the durable frames of the active log
	reserved int64 // end of the zeroes laid out
	last     int64 // newest durable revision
	chain    link  // of the newest sealed log, which the next one names
	sealed   []segment
	snapshot segment // newest; name is empty when there is none
	buf      []byte
	failed   error
	loaded   bool

	compacted  atomic.Int64 // what Size returns
	since      atomic.Int64
	closing    atomic.Bool
	compacting sync.Mutex
	roomMu     sync.Mutex // after compacting and mu
	room       room
}

// segment is a file that is not written any more.
type segment struct {
	name   string
	number int64
	salt   uint32
	size   int64
	room   int64 // size of a log's file, with the zeroes laid out ahead
}

func (s segment) link() link { return link{number: s.number, end: s.size, salt: s.salt} }

var _ engine.Engine = (*Engine)(nil)

// Open takes the directory for this process; another that holds it is an error.
func Open(opts Options) (*Engine, error) {
	if opts.FS == nil {
		opts.FS = OS{}
	}
	if opts.Mark == "" {
		opts.Mark = opts.Dir + "/mark"
	}
	if opts.Ahead == 0 {
		opts.Ahead = growMin
	}
	for _, dir := range []string{opts.Dir, parent(opts.Mark)} {
		if err := opts.FS.MkdirAll(dir); err != nil {
			return nil, fmt.Errorf("store directory: %w", err)
		}
	}
	lock, err := opts.FS.Lock(opts.Dir + "/LOCK")
	if err != nil {
		return nil, fmt.Errorf("store directory %s is in use: %w", opts.Dir, err)
	}
	boot := bootIdentity(opts.FS.Boot())
	return &Engine{fs: opts.FS, dir: opts.Dir, mark: opts.Mark, opts: opts, boot: boot, lock: lock}, nil
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
	buf, err := appendFrame(e.buf[:0], e.salt, e.off, batch)
	if err != nil {
		return err
	}
	if cap(buf) <= growMax {
		e.buf = buf[:0]
	}
	if err := e.makeRoom(e.off+int64(len(buf)), adds(batch)); err != nil {
		return err
	}
	if _, err := e.active.WriteAt(buf, e.off); err != nil {
		return e.wipe(int64(len(buf)), fmt.Errorf("write %s: %w", e.path(e.name), bare(err)))
	}
	if err := e.active.Datasync(); err != nil {
		// The kernel may have dropped the pages and will not tell twice.
		return e.fail(fmt.Errorf("sync %s: %w", e.path(e.name), bare(err)))
	}
	e.off += int64(len(buf))
	e.since.Add(int64(len(buf)))
	e.last = batch[len(batch)-1].Revision
	if err := e.setMark(false, false); err != nil {
		return e.fail(err) // durable, but not vouched for
	}
	return nil
}

// adds says whether a batch has an object that was not there.
func adds(batch []engine.Record) bool {
	for i := range batch {
		if batch[i].Adds {
			return true
		}
	}
	return false
}

// makeRoom lays out zeroes up to end at least, so that a commit writes over existing blocks: the
// sync then has no metadata to write, and a full disk shows before anything is half written. On a
// full disk some are left for batches that add nothing, so that what is there can be changed and removed.
func (e *Engine) makeRoom(end int64, adds bool) error {
	if adds {
		end += e.opts.Ahead / 4
	}
	if end <= e.reserved {
		return nil
	}
	if ahead := e.reserved + min(max(e.reserved, e.opts.Ahead), growMax); ahead > end && e.extend(ahead) == nil {
		return nil
	}
	if e.failed != nil {
		return e.failed
	}
	return e.extend(end) // the disk may be nearly full: take no more than needed
}

// extend also brings the mark to the disk: it is behind by no more than what was laid out ahead.
func (e *Engine) extend(to int64) error {
	e.roomMu.Lock() // what a compaction is about to pass on is not free
	err := writeZeroes(e.active, e.reserved, to)
	e.roomMu.Unlock()
	if err == nil {
		e.reserved = to
		if err := e.setMark(false, true); err != nil {
			return e.fail(err)
		}
		return nil
	}
	err = fmt.Errorf("extend %s: %w", e.path(e.name), bare(err))
	if terr := e.active.Truncate(e.reserved); terr != nil {
		return e.fail(errors.Join(err, bare(terr)))
	}
	return err
}

// wipe undoes a failed write, so that a restart cannot find what was refused.
func (e *Engine) wipe(n int64, cause error) error {
	if err := writeZeroes(e.active, e.off, e.off+n); err != nil {
		return e.fail(errors.Join(cause, bare(err)))
	}
	if err := e.active.Datasync(); err != nil {
		return e.fail(errors.Join(cause, bare(err)))
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

// full says whether an error is for want of space.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

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

// Close implements engine.Engine. It leaves a mark that says that nothing was under way.
func (e *Engine) Close() error {
	e.closing.Store(true)
	e.compacting.Lock()
	defer e.compacting.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	if e.failed == nil && e.loaded {
		errs = append(errs, e.setMark(true, true))
	}
	if e.failed == nil {
		e.failed = errors.New("wal: closed")
	}
	for _, f := range []*File{&e.active, &e.markFile} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
		e.lock = nil
	}
	return errors.Join(errs...)
}
