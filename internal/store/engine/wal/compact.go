package wal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"coracle/internal/store/engine"
)

// errClosing ends a compaction that Close cut short.
var errClosing = errors.New("wal: closing")

// snapshotFrame is the payload size at which a frame of a compacted file is written out.
const snapshotFrame = 256 << 10

// syncEvery bounds how much a compaction leaves to one sync: the log shares the disk.
const syncEvery = 4 << 20

// Compact implements engine.Engine: it copies the live records of all sealed files into one, as
// bytes. Writers wait only while the log is switched.
func (e *Engine) Compact(live func(key string, revision int64) bool, revision func() int64) error {
	e.compacting.Lock()
	defer e.compacting.Unlock()
	if e.closing.Load() {
		return nil
	}
	upTo, err := e.seal()
	if err != nil {
		return fmt.Errorf("begin a new log: %w", err)
	}
	e.mu.Lock()
	old, sealed := e.snapshot, append([]segment(nil), e.sealed...)
	e.mu.Unlock()
	if len(sealed) == 0 {
		return nil // nothing was written since the last time
	}
	size, err := e.writeSnapshot(old, sealed, live, revision)
	if err == nil {
		err = e.fs.Rename(e.path(tmpSnap), e.path(snapName(upTo)))
	}
	if err == nil {
		err = e.fs.SyncDir(e.dir)
	}
	if err != nil {
		if errors.Is(err, errClosing) {
			return nil
		}
		return fmt.Errorf("compact: %w", err)
	}
	e.mu.Lock()
	e.snapshot = segment{name: snapName(upTo), number: upTo, size: size}
	e.sealed = nil
	e.measure()
	e.mu.Unlock()
	for _, s := range append(sealed, old) {
		if s.name != "" {
			err = errors.Join(err, e.fs.Remove(e.path(s.name)))
		}
	}
	return err
}

// seal ends the active log and begins a new one. It returns the last revision before the new one.
func (e *Engine) seal() (int64, error) {
	next, salt, err := e.prepareLog()
	if err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil || e.off == fileHeader {
		// Nothing was written since: the active log can stay.
		upTo := e.last
		err := errors.Join(next.Close(), e.fs.Remove(e.path(tmpLog)))
		if e.failed != nil {
			return 0, e.failed
		}
		return upTo, err
	}
	old, seg := e.active, segment{name: e.name, number: e.number, size: e.off}
	if err := e.switchLog(next, salt, e.last+1); err != nil {
		return 0, err
	}
	e.sealed = append(e.sealed, seg)
	e.measure()
	// The zeroes laid out ahead are not needed any more; that they stay would do no harm.
	_ = old.Truncate(seg.size)
	return e.last, old.Close()
}

const tmpSnap = "snap.tmp"

func (e *Engine) writeSnapshot(old segment, sealed []segment, live func(string, int64) bool, revision func() int64) (size int64, err error) {
	f, err := e.fs.Create(e.path(tmpSnap))
	if err != nil {
		return 0, err
	}
	w := &snapshotWriter{f: f, salt: newSalt(), cancelled: e.closing.Load}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := w.begin(); err != nil {
		return 0, err
	}
	keep := func(r engine.Record) error {
		if !live(r.Key, r.Revision) {
			return nil
		}
		return w.add(&r)
	}
	if old.name != "" {
		if _, err := e.readSnapshot(old.name, keep); err != nil {
			return 0, err
		}
	}
	for _, s := range sealed {
		if err := e.readSealed(s, keep); err != nil {
			return 0, err
		}
	}
	// What was dropped had been superseded by this revision at the latest.
	return w.finish(revision())
}

func (e *Engine) readSealed(s segment, fn func(engine.Record) error) (err error) {
	f, err := e.fs.Open(e.path(s.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, end, bad, err := e.scan(s.name, f, s.size, fn)
	if err == nil && bad != "" {
		err = &engine.CorruptError{File: e.path(s.name), Offset: end, Reason: bad}
	}
	return err
}

// snapshotWriter writes a compacted file: frames of records, and a frame of no records that ends it.
type snapshotWriter struct {
	f         File
	salt      uint32
	off       int64
	synced    int64
	buf       []byte
	count     int
	total     uint64
	cancelled func() bool
}

func (w *snapshotWriter) begin() error {
	n, err := w.f.WriteAt(newFileHeader(kindSnapshot, w.salt), 0)
	w.off = int64(n)
	w.buf = openFrame(nil)
	return err
}

func (w *snapshotWriter) add(r *engine.Record) error {
	w.buf = appendRecord(w.buf, r)
	w.count++
	w.total++
	if len(w.buf) < snapshotFrame {
		return nil
	}
	return w.flush()
}

func (w *snapshotWriter) flush() error {
	if w.cancelled() {
		return errClosing
	}
	buf, err := closeFrame(w.buf, 0, w.salt, w.count)
	if err != nil {
		return err
	}
	if _, err := w.f.WriteAt(buf, w.off); err != nil {
		return err
	}
	w.off += int64(len(buf))
	w.buf, w.count = openFrame(w.buf[:0]), 0
	if w.off-w.synced < syncEvery {
		return nil
	}
	w.synced = w.off
	return w.f.Datasync()
}

func (w *snapshotWriter) finish(complete int64) (int64, error) {
	if w.count > 0 {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	w.buf = binary.AppendUvarint(w.buf, uint64(complete))
	w.buf = binary.AppendUvarint(w.buf, w.total)
	if err := w.flush(); err != nil {
		return 0, err
	}
	return w.off, w.f.Datasync()
}

// footer is the last frame of a compacted file.
type footer struct {
	complete int64
	total    uint64
}

// readSnapshot passes the records of a compacted file to fn. Such a file has its name only once
// it is whole and durable, so that anything wrong with it is damage.
func (e *Engine) readSnapshot(name string, fn func(engine.Record) error) (foot footer, err error) {
	f, err := e.fs.Open(e.path(name))
	if err != nil {
		return foot, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return foot, err
	}
	if e.snapshot.name == name && e.snapshot.size == 0 {
		e.snapshot.size = size
	}
	r := &reader{f: f, size: size}
	if err := r.header(kindSnapshot); err != nil {
		return foot, e.located(name, 0, err)
	}
	var total uint64
	for {
		at := r.off
		payload, count, err := r.frame()
		if err == nil && count == 0 {
			if foot, err = parseFooter(payload); err == nil && foot.total == total {
				return foot, nil
			}
			err = badFrame(fmt.Sprintf("bad end: %v, %d records where %d were written", err, total, foot.total))
		}
		if err == nil {
			err = decodePayload(payload, count, func(rec engine.Record) error { total++; return fn(rec) })
		}
		if err != nil {
			return foot, e.located(name, at, err)
		}
	}
}

func parseFooter(p []byte) (footer, error) {
	complete, n := binary.Uvarint(p)
	if n <= 0 {
		return footer{}, badFrame("no revision")
	}
	total, m := binary.Uvarint(p[n:])
	if m <= 0 || n+m != len(p) {
		return footer{}, badFrame("no count")
	}
	return footer{complete: int64(complete), total: total}, nil
}
