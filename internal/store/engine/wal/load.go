package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"coracle/internal/store/engine"
)

// Load implements engine.Engine.
func (e *Engine) Load(fn func(engine.Record) error) (engine.Loaded, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var loaded engine.Loaded
	if e.loaded {
		return loaded, errors.New("wal: Load called twice")
	}
	logs, err := e.survey()
	if err != nil {
		return loaded, err
	}
	if e.snapshot.name != "" {
		foot, err := e.readSnapshot(e.snapshot.name, fn)
		if err != nil {
			return loaded, err
		}
		loaded.Complete = foot.complete
		e.last = e.snapshot.number
	}
	for i, seg := range logs {
		lost, err := e.loadLog(seg, i == len(logs)-1, fn)
		if err != nil {
			return loaded, err
		}
		loaded.Truncated += lost
	}
	if len(logs) == 0 {
		if err := e.startLog(e.last + 1); err != nil {
			return loaded, fmt.Errorf("begin the log: %w", err)
		}
	}
	loaded.Revision = e.last
	e.loaded = true
	e.measure()
	return loaded, nil
}

// survey finds the files that count and removes what an interrupted compaction left behind.
func (e *Engine) survey() (logs []segment, err error) {
	names, err := e.fs.ReadDir(e.dir)
	if err != nil {
		return nil, fmt.Errorf("list the store directory: %w", err)
	}
	var snaps []segment
	var stale []string
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, ".tmp"):
			stale = append(stale, name)
		case strings.HasPrefix(name, "snap-"):
			n, err := number(name, "snap-", ".snap")
			if err != nil {
				return nil, err
			}
			snaps = append(snaps, segment{name: name, number: n})
		case strings.HasPrefix(name, "log-"):
			n, err := number(name, "log-", ".wal")
			if err != nil {
				return nil, err
			}
			logs = append(logs, segment{name: name, number: n})
		}
	}
	byNumber := func(a, b segment) int { return int(min(max(a.number-b.number, -1), 1)) }
	slices.SortFunc(snaps, byNumber)
	slices.SortFunc(logs, byNumber)
	if len(snaps) > 0 {
		e.snapshot = snaps[len(snaps)-1]
		for _, s := range snaps[:len(snaps)-1] {
			stale = append(stale, s.name)
		}
	}
	// A log whose successor begins within the snapshot is all in the snapshot.
	for len(logs) > 0 && logs[0].number <= e.snapshot.number {
		stale = append(stale, logs[0].name)
		logs = logs[1:]
	}
	if len(logs) == 0 && e.snapshot.name != "" || len(logs) > 0 && logs[0].number > max(e.snapshot.number+1, 1) {
		return nil, fmt.Errorf("%s: the log that follows revision %d is missing", e.dir, e.snapshot.number)
	}
	for _, name := range stale {
		if err := e.fs.Remove(e.path(name)); err != nil {
			return nil, fmt.Errorf("remove a file left over by compaction: %w", err)
		}
	}
	return logs, nil
}

func number(name, prefix, suffix string) (int64, error) {
	digits, ok := strings.CutSuffix(strings.TrimPrefix(name, prefix), suffix)
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("unexpected file %s in the store directory", name)
	}
	return n, nil
}

func logName(n int64) string  { return fmt.Sprintf("log-%020d.wal", n) }
func snapName(n int64) string { return fmt.Sprintf("snap-%020d.snap", n) }

// startLog makes the active log, empty and durable.
func (e *Engine) startLog(n int64) error {
	f, salt, err := e.prepareLog()
	if err != nil {
		return err
	}
	return e.switchLog(f, salt, n)
}

// tmpLog is a log that has no number yet.
const tmpLog = "log.tmp"

func (e *Engine) prepareLog() (f File, salt uint32, err error) {
	f, err = e.fs.Create(e.path(tmpLog))
	if err != nil {
		return nil, 0, err
	}
	salt = newSalt()
	_, err = f.WriteAt(newFileHeader(kindLog, salt), 0)
	if err == nil {
		err = writeZeroes(f, fileHeader, growMin)
	}
	if err == nil {
		err = f.Datasync()
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close(), e.fs.Remove(e.path(tmpLog)))
	}
	return f, salt, nil
}

func (e *Engine) switchLog(f File, salt uint32, n int64) error {
	name := logName(n)
	if err := e.fs.Rename(e.path(tmpLog), e.path(name)); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := e.fs.SyncDir(e.dir); err != nil {
		// Whether the new log is there after a crash is not known: going on with the old one
		// could leave two logs with a torn end each.
		return errors.Join(e.fail(err), f.Close())
	}
	e.active, e.name, e.number, e.salt, e.off, e.reserved = f, name, n, salt, fileHeader, growMin
	return nil
}

// loadLog reads one log; the last one becomes the active log and may have a torn end.
func (e *Engine) loadLog(seg segment, last bool, fn func(engine.Record) error) (lost int64, err error) {
	f, err := e.fs.Open(e.path(seg.name))
	if err != nil {
		return 0, fmt.Errorf("open the log: %w", err)
	}
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, f.Close())
		}
	}()
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	if e.last < seg.number-1 {
		e.last = seg.number - 1 // of a failed write whose revision was not used again
	}
	salt, end, bad, err := e.scan(seg.name, f, size, func(r engine.Record) error {
		if r.Revision <= e.last {
			return badFrame(fmt.Sprintf("revision %d follows %d", r.Revision, e.last))
		}
		e.last = r.Revision
		return fn(r)
	})
	if err != nil {
		return 0, err
	}
	if bad != "" {
		torn, err := tornTail(f, salt, end, size)
		if err != nil {
			return 0, err
		}
		if !torn || !last {
			return 0, &engine.CorruptError{File: e.path(seg.name), Offset: end, Reason: bad}
		}
		lost = size - end
	}
	if !last {
		e.sealed = append(e.sealed, segment{name: seg.name, number: seg.number, size: end})
		return 0, nil
	}
	if bad != "" {
		if err := f.Truncate(end); err != nil {
			return 0, fmt.Errorf("cut the torn tail: %w", err)
		}
		if err := f.Datasync(); err != nil {
			return 0, fmt.Errorf("cut the torn tail: %w", err)
		}
		size = end
	}
	keep = true
	e.active, e.name, e.number, e.salt, e.off, e.reserved = f, seg.name, seg.number, salt, end, size
	return lost, nil
}

// scan passes the records of a log to fn. end is the offset after the last sound frame; bad says
// why the bytes at end are no frame, empty when only zeroes follow.
func (e *Engine) scan(name string, f File, size int64, fn func(engine.Record) error) (salt uint32, end int64, bad string, err error) {
	r := &reader{f: f, size: size}
	if err := r.header(kindLog); err != nil {
		return 0, 0, "", e.located(name, 0, err)
	}
	for end = r.off; end < size; end = r.off {
		payload, count, err := r.frame()
		var damage badFrame
		if errors.As(err, &damage) {
			zero, err := onlyZeroes(f, end, size)
			if err != nil || zero {
				return r.salt, end, "", err
			}
			return r.salt, end, string(damage), nil
		}
		if err == nil {
			err = decodePayload(payload, count, fn)
		}
		if err != nil {
			return r.salt, end, "", e.located(name, end, err)
		}
	}
	return r.salt, end, "", nil
}

// located says where in which file err was met, as damage if it is about the bytes found.
func (e *Engine) located(name string, at int64, err error) error {
	var damage badFrame
	if errors.As(err, &damage) {
		return &engine.CorruptError{File: e.path(name), Offset: at, Reason: string(damage)}
	}
	return fmt.Errorf("%s, byte %d: %w", e.path(name), at, err)
}

// reader reads a file in order, each payload into memory of its own, which may be kept.
type reader struct {
	f    File
	salt uint32
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

// badFrame says why the bytes at a position are no sound frame.
type badFrame string

func (b badFrame) Error() string { return string(b) }

func (r *reader) header(kind byte) error {
	h, err := r.next(fileHeader)
	if err != nil {
		return err
	}
	if r.salt, err = checkFileHeader(h, kind); err != nil {
		return badFrame(err.Error())
	}
	return nil
}

// frame returns the next payload; a badFrame error if there is no sound frame here.
func (r *reader) frame() (payload []byte, count uint32, err error) {
	h, err := r.next(frameHeader)
	if err != nil {
		return nil, 0, err
	}
	if len(h) < frameHeader {
		return nil, 0, badFrame("frame header is cut short")
	}
	if [4]byte(h) != frameMagic {
		return nil, 0, badFrame(fmt.Sprintf("no frame begins here (found % x)", h[:4]))
	}
	length := int64(binary.LittleEndian.Uint32(h[4:]))
	if length > r.size-r.off {
		return nil, 0, badFrame(fmt.Sprintf("frame of %d bytes reaches past the end of the file", length))
	}
	if payload, err = r.next(length); err != nil {
		return nil, 0, err
	}
	if frameSum(r.salt, h, payload) != binary.LittleEndian.Uint32(h[12:]) {
		return nil, 0, badFrame("checksum does not match")
	}
	return payload, binary.LittleEndian.Uint32(h[8:]), nil
}

func onlyZeroes(f File, from, to int64) (bool, error) {
	buf := make([]byte, len(zeroes))
	for from < to {
		n := min(to-from, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], from); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !bytes.Equal(buf[:n], zeroes[:n]) {
			return false, nil
		}
		from += n
	}
	return true, nil
}

// tornTail tells whether the damage at from can be the end of a write that was cut short. A batch
// is written only once the one before is durable: a sound frame further on means that the damaged
// one had been acknowledged.
func tornTail(f File, salt uint32, from, size int64) (bool, error) {
	rest := make([]byte, size-from)
	if _, err := f.ReadAt(rest, from); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	for at := 1; at < len(rest); at++ {
		i := bytes.Index(rest[at:], frameMagic[:])
		if i < 0 {
			break
		}
		at += i
		r := &reader{f: f, salt: salt, size: size, off: from + int64(at)}
		_, _, err := r.frame()
		var damage badFrame
		if !errors.As(err, &damage) {
			return false, err
		}
	}
	return true, nil
}
