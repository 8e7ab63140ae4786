package wal

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"coracle/internal/store/engine"
)

// found is what lies in the directory, before any of it was read.
type found struct {
	snapshot segment // the newest; name is empty when there is none
	logs     []segment
	stale    []string // what an interrupted compaction left behind
}

// Load implements engine.Engine. It changes nothing before all was found whole.
func (e *Engine) Load(fn func(engine.Record) error) (engine.Loaded, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.loaded {
		return engine.Loaded{}, errors.New("wal: Load called twice")
	}
	have, err := e.survey()
	if err != nil {
		return engine.Loaded{}, err
	}
	m, begun, err := e.expect(have)
	if err != nil {
		return engine.Loaded{}, err
	}
	l := loading{e: e, mark: m, begun: begun, have: have}
	if err := l.read(fn); err != nil {
		return l.loaded, err
	}
	if err := l.finish(); err != nil {
		return l.loaded, err
	}
	e.loaded = true
	e.measure()
	return l.loaded, nil
}

// survey finds the files that count.
func (e *Engine) survey() (have found, err error) {
	names, err := e.fs.ReadDir(e.dir)
	if err != nil {
		return have, fmt.Errorf("list the store directory: %w", err)
	}
	var snaps []segment
	for _, name := range names {
		switch {
		case name == tmpLog || name == tmpSnap:
			have.stale = append(have.stale, name)
		case strings.HasPrefix(name, "snap-"):
			n, err := e.numberOf(name, "snap-", ".snap")
			if err != nil {
				return have, err
			}
			snaps = append(snaps, segment{name: name, number: n})
		case strings.HasPrefix(name, "log-"):
			n, err := e.numberOf(name, "log-", ".wal")
			if err != nil {
				return have, err
			}
			have.logs = append(have.logs, segment{name: name, number: n})
		}
	}
	byNumber := func(a, b segment) int { return int(min(max(a.number-b.number, -1), 1)) }
	slices.SortFunc(snaps, byNumber)
	slices.SortFunc(have.logs, byNumber)
	if len(snaps) > 0 {
		have.snapshot = snaps[len(snaps)-1]
		for _, s := range snaps[:len(snaps)-1] {
			have.stale = append(have.stale, s.name)
		}
	}
	// A log whose successor begins within the snapshot is all in the snapshot.
	for len(have.logs) > 0 && have.logs[0].number <= have.snapshot.number {
		have.stale = append(have.stale, have.logs[0].name)
		have.logs = have.logs[1:]
	}
	return have, nil
}

func (e *Engine) numberOf(name, prefix, suffix string) (int64, error) {
	digits, ok := strings.CutSuffix(strings.TrimPrefix(name, prefix), suffix)
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || name != prefix+fmt.Sprintf("%020d", n)+suffix {
		return 0, &engine.DamageError{File: e.path(name), Reason: "unexpected file in the store directory"}
	}
	return n, nil
}

func logName(n int64) string  { return fmt.Sprintf("log-%020d.wal", n) }
func snapName(n int64) string { return fmt.Sprintf("snap-%020d.snap", n) }

func damaged(file, format string, args ...any) error {
	return &engine.DamageError{File: file, Reason: fmt.Sprintf(format, args...)}
}

const noMark = "the mark is missing: how much the store holds is not known without it"

// expect holds what is there against what was begun. begun says that there is a mark.
func (e *Engine) expect(have found) (m mark, begun bool, err error) {
	m, begun, err = e.readMark()
	if err != nil {
		return m, begun, err
	}
	empty := len(have.logs) == 0 && have.snapshot.name == ""
	switch {
	case begun && e.opts.Identity != "" && m.identity.String() != e.opts.Identity:
		err = damaged(e.mark, "this is the mark of another store (%s, not %s)", m.identity, e.opts.Identity)
	case begun && empty:
		err = damaged(e.dir, "all files of the store are missing; revision %d had been acknowledged", m.revision)
	case !begun && e.opts.Identity != "" && empty:
		err = damaged(e.dir, "all files of the store are missing, and its mark %s", e.mark)
	case !begun && e.opts.Identity != "":
		err = damaged(e.mark, noMark)
	case !begun && e.opts.Begun && empty:
		err = damaged(e.dir, "all files of the store are missing")
	}
	if begun {
		e.identity, e.turn = m.identity, m.turn
	}
	return m, begun, err
}

// loading is one Load.
type loading struct {
	e      *Engine
	mark   mark
	begun  bool // there is a mark
	have   found
	loose  bool // what comes before the next log is not known: a snapshot of version 1
	filled bool // a file of this version holds records
	torn   bool // the active log is to be cut at its end
	ended  map[int64]segment
	loaded engine.Loaded
}

// read passes the records of all files to fn.
func (l *loading) read(fn func(engine.Record) error) error {
	e := l.e
	l.ended = map[int64]segment{}
	if s := l.have.snapshot; s.name != "" {
		head, foot, err := e.readSnapshot(s, fn)
		if err != nil {
			return err
		}
		e.chain, l.loose = head.previous, head.old
		l.loaded.Outdated = head.old
		l.filled = !head.old
		l.loaded.Complete = foot.complete
		e.last = s.number
	}
	for i, seg := range l.have.logs {
		if i == 0 && l.have.snapshot.name == "" {
			e.last = seg.number - 1
			l.loaded.Complete = e.last
		}
		if err := l.readLog(seg, i == len(l.have.logs)-1, fn); err != nil {
			return err
		}
	}
	if len(l.have.logs) == 0 && l.have.snapshot.name != "" {
		return damaged(e.path(logName(l.have.snapshot.number+1)), "the log that follows the snapshot is missing")
	}
	if !l.begun && l.filled {
		return damaged(e.mark, noMark)
	}
	return l.confront()
}

// readLog reads one log; the last one becomes the active log and may end with an unfinished write.
func (l *loading) readLog(seg segment, last bool, fn func(engine.Record) error) (err error) {
	e := l.e
	f, err := e.fs.Open(e.path(seg.name))
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, f.Close())
		}
	}()
	size, err := f.Size()
	if err != nil {
		return err
	}
	r := &reader{f: f, size: size}
	if err := r.header(kindLog); err != nil {
		return e.located(seg.name, 0, err)
	}
	if err := l.follows(seg, r.head); err != nil {
		return err
	}
	e.last = max(e.last, seg.number-1) // of a failed write whose revision was not used again
	end, bad, err := scan(r, func(rec engine.Record) error {
		if rec.Revision <= e.last {
			return badFrame(fmt.Sprintf("revision %d follows %d", rec.Revision, e.last))
		}
		e.last = rec.Revision
		return fn(rec)
	})
	if err != nil {
		return e.located(seg.name, end, err)
	}
	l.filled = l.filled || !r.head.old && (end > headerSize || bad != "")
	seg.size, seg.salt, seg.room = end, r.head.salt, size
	if err := l.judge(seg, r, last, bad); err != nil {
		return err
	}
	l.ended[seg.number] = seg
	if !last || r.head.old {
		return l.sealed(f, seg, bad != "")
	}
	keep, l.torn = true, bad != ""
	if l.torn {
		l.loaded.Truncated = size - end
		size = end
	}
	e.active, e.name, e.number, e.salt, e.off, e.reserved = f, seg.name, seg.number, r.head.salt, end, size
	return nil
}

// sealed notes a log that is not written any more. One of version 1 may be cut.
func (l *loading) sealed(f File, seg segment, torn bool) error {
	e := l.e
	if torn {
		size, err := f.Size()
		if err == nil {
			err = f.Truncate(seg.size)
		}
		if err == nil {
			err = f.Datasync()
		}
		if err != nil {
			return fmt.Errorf("cut an unfinished write off %s: %w", e.path(seg.name), bare(err))
		}
		l.loaded.Truncated += size - seg.size
	}
	if seg.size == oldHeaderSize && e.last < seg.number {
		l.have.stale = append(l.have.stale, seg.name) // nothing is in it; the log of this version takes its place
		return nil
	}
	e.chain, l.loose = seg.link(), false
	e.sealed = append(e.sealed, seg)
	return nil
}

// follows holds a log against its name, its store and what comes before it.
func (l *loading) follows(seg segment, head header) error {
	e := l.e
	damage := func(file, format string, args ...any) error { return damaged(e.path(file), format, args...) }
	if head.old {
		l.loaded.Outdated = true
		if l.begun && seg.number == l.mark.log.number {
			return damage(seg.name, "this is not the log that was written: its format is an older one")
		}
		if seg.number > max(e.last+1, 1) || e.chain.number == 0 && len(e.sealed) == 0 && !l.loose && seg.number > 1 {
			return damage(logName(e.last+1), "the log is missing, or the one before it was cut")
		}
		return nil
	}
	if !l.begun && e.identity == (identity{}) {
		e.identity = head.identity // a beginning that was cut short
	}
	switch {
	case head.identity != e.identity:
		return damage(seg.name, "this is a log of another store (%s, not %s)", head.identity, e.identity)
	case head.number != seg.number:
		return damage(seg.name, "this is the log from revision %d on, under another name", head.number)
	case l.loose && seg.number != e.last+1:
		return damage(logName(e.last+1), "the log that follows the snapshot is missing")
	case l.loose || head.previous == e.chain:
		return nil
	}
	if before, ok := l.ended[head.previous.number]; ok {
		return damage(before.name, "its records end at byte %d, but the log that follows it knows them to byte %d: "+
			"it was cut, or is an older copy",
			before.size, head.previous.end)
	}
	if head.previous.number == 0 {
		return damage(seg.name, "this log begins a store, but others are before it: they do not belong together")
	}
	if l.have.snapshot.name != "" && e.chain.number >= head.previous.number {
		return damage(l.have.snapshot.name,
			"the snapshot and the log that follows it do not belong together: one is a copy of another time")
	}
	if l.have.snapshot.name == "" {
		return damage(logName(head.previous.number), "the log is missing, or the snapshot that holds what was in it")
	}
	return damage(logName(head.previous.number), "the log is missing, or the snapshot is an older copy")
}

// judge decides what the end of a log means.
func (l *loading) judge(seg segment, r *reader, last bool, bad string) error {
	e := l.e
	damage := func(reason string) error {
		return &engine.DamageError{File: e.path(seg.name), Offset: seg.size, Reason: reason}
	}
	marked := l.begun && l.mark.log.number == seg.number
	if marked && l.mark.log.salt != seg.salt {
		return damaged(e.path(seg.name), "this is not the log that was written, but one of another time")
	}
	if marked && seg.size < l.mark.log.end {
		if bad == "" {
			bad = "the records end here"
		}
		return damage(fmt.Sprintf("%s; up to byte %d (revision %d) had been acknowledged",
			bad, l.mark.log.end, l.mark.revision))
	}
	if bad == "" {
		return nil
	}
	if !last {
		return damage(bad + "; the log that follows was begun after that")
	}
	why, err := unfinished(r, seg.size)
	if err != nil {
		return fmt.Errorf("read %s: %w", e.path(seg.name), bare(err))
	}
	if why != "" {
		return damage(bad + "; " + why)
	}
	return nil
}

// confront holds all that was read against the mark.
func (l *loading) confront() error {
	if !l.begun {
		return nil
	}
	l.loaded.Known = l.mark.revision
	l.loaded.Exact = l.mark.clean || l.mark.boot == l.e.boot && l.e.boot != (identity{})
	if l.e.last >= l.mark.revision {
		return nil
	}
	if _, there := l.ended[l.mark.log.number]; !there {
		return damaged(l.e.path(logName(l.mark.log.number)), "the log is missing, or the store is an older copy: "+
			"it ends at revision %d, but %d had been acknowledged", l.e.last, l.mark.revision)
	}
	return damaged(l.e.dir, "the store ends at revision %d, but %d had been acknowledged: something is missing",
		l.e.last, l.mark.revision)
}

// finish makes what was read the state to go on from.
func (l *loading) finish() error {
	e := l.e
	if e.identity == (identity{}) {
		e.identity = newIdentity()
	}
	if l.torn {
		if err := e.active.Truncate(e.off); err != nil {
			return fmt.Errorf("cut an unfinished write off %s: %w", e.path(e.name), bare(err))
		}
	}
	switch e.active {
	case nil:
		if len(l.have.logs) == 0 && l.have.snapshot.name == "" {
			e.last = e.opts.After
			l.loaded.Complete = e.last
		}
		if err := e.startLog(); err != nil {
			return fmt.Errorf("begin the log: %w", err)
		}
	default:
		// A frame that was written and not synced before the process was killed is told of from now on.
		if err := e.active.Datasync(); err != nil {
			return fmt.Errorf("sync %s: %w", e.path(e.name), bare(err))
		}
	}
	if err := e.openMark(l.begun); err != nil {
		return err
	}
	if err := l.tidy(); err != nil {
		return fmt.Errorf("remove a file left over by compaction: %w", err)
	}
	l.loaded.Revision = e.last
	l.loaded.Identity = e.identity.String()
	return nil
}

// located says where in which file err was met, as damage if it is about the bytes found.
func (e *Engine) located(name string, at int64, err error) error {
	var damage badFrame
	if errors.As(err, &damage) {
		return &engine.DamageError{File: e.path(name), Offset: at, Reason: string(damage)}
	}
	return fmt.Errorf("%s, byte %d: %w", e.path(name), at, bare(err))
}
