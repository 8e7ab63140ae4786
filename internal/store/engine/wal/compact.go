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
// bytes. Writers wait only while the log is switched. It needs no room but what Reserve holds.
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
	size, err := e.replaceSnapshot(upTo, old, sealed, live, revision)
	if size > 0 { // it counts, whatever became of the files that it replaces
		e.mu.Lock()
		e.snapshot = segment{name: snapName(upTo), number: upTo, size: size}
		e.sealed = nil
		e.measure()
		e.mu.Unlock()
	}
	if err != nil && !errors.Is(err, errClosing) {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// replaceSnapshot writes what lives into the reserve, and makes of the files that it replaces the next one. The size is
// that of the snapshot once it has its name, also when the error is about the files that it replaces; else 0.
func (e *Engine) replaceSnapshot(
	upTo int64, old segment, sealed []segment, live func(string, int64) bool, revision func() int64,
) (size int64, err error) {
	w, err := e.writeSnapshot(upTo, old, sealed, live, revision)
	if err != nil {
		return 0, err
	}
	files := make([]unused, 0, len(sealed)+1)
	for _, s := range append(sealed, old) {
		if s.name != "" && s.name != snapName(upTo) {
			files = append(files, unused{s.name, max(s.size, s.room)})
		}
	}
	e.roomMu.Lock()
	defer e.roomMu.Unlock()
	if err := errors.Join(w.end(), w.f.Close()); err != nil {
		return 0, errors.Join(err, e.retireLocked([]unused{{tmpSnap, w.off}}))
	}
	if err := e.nameSnapshot(upTo); err != nil {
		return 0, err
	}
	e.compacted.Store(w.off)
	return w.off, e.retireLocked(files)
}

// nameSnapshot gives a snapshot that is whole and durable its name.
func (e *Engine) nameSnapshot(upTo int64) error {
	if err := e.fs.Rename(e.path(tmpSnap), e.path(snapName(upTo))); err != nil {
		return err
	}
	return e.fs.SyncDir(e.dir)
}

// seal ends the active log and begins a new one. It returns the last revision before the new one.
func (e *Engine) seal() (int64, error) {
	next, err := e.prepareLog()
	if err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil || e.off == headerSize {
		// Nothing was written since: the active log can stay.
		return e.last, e.dropLog(next, e.failed)
	}
	old, seg, before := e.active, segment{name: e.name, number: e.number, salt: e.salt, size: e.off, room: e.reserved}, e.chain
	e.chain = seg.link()
	if err := e.switchLog(next); err != nil {
		e.chain = before
		return 0, err
	}
	e.sealed = append(e.sealed, seg)
	e.measure()
	return e.last, old.Close()
}

const tmpSnap = "snap.tmp"

// writeSnapshot writes what lives of the old snapshot and the sealed logs, up to revision upTo. The file is whole
// but for its end, see snapshotWriter.end; after an error its room is kept.
func (e *Engine) writeSnapshot(
	upTo int64, old segment, sealed []segment, live func(string, int64) bool, revision func() int64,
) (*snapshotWriter, error) {
	f, err := e.claim(reserveName, tmpSnap)
	if err != nil {
		return nil, err
	}
	head := header{kind: kindSnapshot, salt: newSalt(), identity: e.identity, number: upTo}
	head.previous = sealed[len(sealed)-1].link()
	w := &snapshotWriter{f: f, name: e.path(tmpSnap), salt: head.salt, cancelled: e.closing.Load}
	err = w.begin(&head)
	if err == nil {
		err = e.copyLiving(w, old, sealed, live)
	}
	if err == nil {
		// What was dropped had been superseded by this revision at the latest.
		err = w.finish(revision())
	}
	if err != nil {
		size, serr := f.Size()
		return nil, errors.Join(err, serr, f.Close(), e.retire(unused{tmpSnap, size}))
	}
	return w, nil
}

func (e *Engine) copyLiving(w *snapshotWriter, old segment, sealed []segment, live func(string, int64) bool) error {
	keep := func(r engine.Record) error {
		if !live(r.Key, r.Revision) {
			return nil
		}
		return w.add(&r)
	}
	if old.name != "" {
		if _, _, err := e.readSnapshot(old, keep); err != nil {
			return err
		}
	}
	for _, s := range sealed {
		if err := e.readSealed(s, keep); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) readSealed(s segment, fn func(engine.Record) error) (err error) {
	f, err := e.fs.Open(e.path(s.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := &reader{f: f, size: s.size}
	if err := r.header(kindLog); err != nil {
		return e.located(s.name, 0, err)
	}
	end, bad, err := scan(r, fn)
	if err == nil && (bad != "" || end < s.size) {
		err = badFrame(bad + "; it was whole when it was loaded")
	}
	if err != nil {
		return e.located(s.name, end, err)
	}
	return nil
}

// snapshotWriter writes a compacted file: frames of records, and a frame of no records that ends it.
type snapshotWriter struct {
	f         File
	name      string
	salt      uint32
	off       int64
	synced    int64
	buf       []byte
	count     int
	total     uint64
	cancelled func() bool
}

func (w *snapshotWriter) begin(head *header) error {
	w.buf = openFrame(nil)
	return w.write(head.encode())
}

func (w *snapshotWriter) write(b []byte) error {
	if _, err := w.f.WriteAt(b, w.off); err != nil {
		return fmt.Errorf("write %s: %w", w.name, bare(err))
	}
	w.off += int64(len(b))
	return nil
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
	buf, err := closeFrame(w.buf, 0, w.salt, w.off, w.count)
	if err != nil {
		return err
	}
	if err := w.write(buf); err != nil {
		return err
	}
	w.buf, w.count = openFrame(w.buf[:0]), 0
	if w.off-w.synced < syncEvery {
		return nil
	}
	w.synced = w.off
	return w.sync()
}

func (w *snapshotWriter) sync() error {
	if err := w.f.Datasync(); err != nil {
		return fmt.Errorf("sync %s: %w", w.name, bare(err))
	}
	return nil
}

// finish writes the last frame.
func (w *snapshotWriter) finish(complete int64) error {
	if w.count > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.buf = binary.AppendUvarint(w.buf, uint64(complete))
	w.buf = binary.AppendUvarint(w.buf, w.total)
	return w.flush()
}

// end gives back what was reserved and not used, and makes the file durable.
func (w *snapshotWriter) end() error {
	if err := w.f.Truncate(w.off); err != nil {
		return fmt.Errorf("cut %s: %w", w.name, bare(err))
	}
	return w.sync()
}

// footer is the last frame of a compacted file.
type footer struct {
	complete int64
	total    uint64
}

// readSnapshot passes the records of a compacted file to fn. Such a file has its name only once
// it is whole and durable, so that anything wrong with it is damage.
func (e *Engine) readSnapshot(s segment, fn func(engine.Record) error) (head header, foot footer, err error) {
	f, err := e.fs.Open(e.path(s.name))
	if err != nil {
		return head, foot, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return head, foot, err
	}
	r := &reader{f: f, size: size}
	if err := r.header(kindSnapshot); err != nil {
		return head, foot, e.located(s.name, 0, err)
	}
	if err := e.ownSnapshot(s, r.head); err != nil {
		return head, foot, err
	}
	foot, end, err := readRecords(r, fn)
	if err != nil {
		return head, foot, e.located(s.name, end, err)
	}
	if e.snapshot.name == "" {
		e.snapshot = segment{name: s.name, number: s.number, salt: r.head.salt, size: r.off}
	}
	return r.head, foot, nil
}

// ownSnapshot holds a snapshot against its name and its store.
func (e *Engine) ownSnapshot(s segment, head header) error {
	var reason string
	switch {
	case head.old:
		return nil
	case head.number != s.number:
		reason = fmt.Sprintf("this is the snapshot of revision %d under another name", head.number)
	case e.identity != (identity{}) && head.identity != e.identity:
		reason = fmt.Sprintf("this is a snapshot of another store (%s, not %s)", head.identity, e.identity)
	default:
		return nil
	}
	return &engine.DamageError{File: e.path(s.name), Reason: reason}
}

// readRecords passes the records of a compacted file to fn. at is where an error was met.
func readRecords(r *reader, fn func(engine.Record) error) (foot footer, at int64, err error) {
	var total uint64
	for {
		at = r.off
		payload, count, err := r.frame()
		if err == nil && count == 0 {
			if foot, err = parseFooter(payload); err == nil && foot.total == total {
				return foot, at, nil
			}
			err = badFrame(fmt.Sprintf("bad end: %v, %d records where %d were written", err, total, foot.total))
		}
		if err == nil {
			err = decodePayload(payload, count, func(rec engine.Record) error { total++; return fn(rec) })
		}
		if err != nil {
			return foot, at, err
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
