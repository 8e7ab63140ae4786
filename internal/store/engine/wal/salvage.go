package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"coracle/internal/store/engine"
)

// Remains is what can still be read of a damaged store.
type Remains struct {
	// Records are the newest of each key, in order of revision; what was deleted is not among them.
	Records []engine.Record
	// Revision is the newest that was met, in the files or in the mark.
	Revision int64
	// Gaps say what could not be read.
	Gaps []string
}

// Salvage reads all that can be read of the store in opts.Dir, and changes nothing. Where a batch
// between two sound ones is lost, an older state of an object may be what is left of it, or an object
// that had been deleted.
func Salvage(opts Options) (rest Remains, err error) {
	e, err := Open(opts)
	if err != nil {
		return rest, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	names, err := e.fs.ReadDir(e.dir)
	if err != nil {
		return rest, fmt.Errorf("list the store directory: %w", err)
	}
	s := salvage{e: e, newest: map[string]engine.Record{}, salts: map[string]uint32{}, rest: &rest}
	s.hints(names)
	// Snapshots, then logs, the newest first.
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	for _, name := range names {
		if err := s.file(name); err != nil {
			return rest, err
		}
	}
	rest.Records = slices.SortedFunc(maps.Values(s.newest), func(a, b engine.Record) int {
		return int(min(max(a.Revision-b.Revision, -1), 1))
	})
	rest.Records = slices.DeleteFunc(rest.Records, func(r engine.Record) bool { return r.Delete })
	return rest, nil
}

type salvage struct {
	e      *Engine
	own    identity // zero when nothing says which store this is
	whole  int64    // the newest snapshot that was read to its end: logs up to it add nothing
	newest map[string]engine.Record
	salts  map[string]uint32 // of files, as others name them
	rest   *Remains
}

// hints learns from the mark and from sound headers what damaged headers do not say.
func (s *salvage) hints(names []string) {
	m, found, err := s.e.readMark()
	if err != nil {
		s.gap("%v", err)
	}
	if found && err == nil {
		s.rest.Revision = m.revision
		s.salts[logName(m.log.number)] = m.log.salt
	}
	stores := map[string]identity{}
	for _, name := range names {
		kind, ok := kindOf(name)
		if !ok {
			continue
		}
		if r, err := s.open(name); err == nil {
			if r.header(kind) == nil && !r.head.old {
				stores[r.head.identity.String()] = r.head.identity
				s.salts[logName(r.head.previous.number)] = r.head.previous.salt
			}
			_ = r.f.Close()
		}
	}
	// The store that is asked for, if anything of it is there: the mark alone may be another's.
	s.own = m.identity
	if id, ok := stores[s.e.opts.Identity]; ok {
		s.own = id
	}
}

func (s *salvage) gap(format string, args ...any) {
	s.rest.Gaps = append(s.rest.Gaps, fmt.Sprintf(format, args...))
}

func kindOf(name string) (kind byte, ok bool) {
	switch {
	case strings.HasPrefix(name, "snap-"):
		return kindSnapshot, true
	case strings.HasPrefix(name, "log-"):
		return kindLog, true
	}
	return 0, false
}

func (s *salvage) open(name string) (*reader, error) {
	f, err := s.e.fs.Open(s.e.path(name))
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &reader{f: f, size: size}, nil
}

// file reads what it can of one file.
func (s *salvage) file(name string) error {
	kind, ok := kindOf(name)
	if !ok {
		return nil
	}
	prefix, suffix := name[:strings.IndexByte(name, '-')+1], name[max(strings.LastIndexByte(name, '.'), 0):]
	if n, err := s.e.numberOf(name, prefix, suffix); err == nil && n <= s.whole {
		return nil
	}
	r, err := s.open(name)
	if err != nil {
		return err
	}
	defer r.f.Close()
	if err := r.header(kind); err != nil {
		salt, known := s.salts[name]
		s.gap("%s: %v", s.e.path(name), err)
		if !known {
			return nil
		}
		r.head = header{kind: kind, salt: salt, identity: s.own}
		r.seek(headerSize)
	}
	if !r.head.old && s.own == (identity{}) {
		s.own = r.head.identity
	}
	if !r.head.old && r.head.identity != s.own {
		s.gap("%s: a file of another store (%s)", s.e.path(name), r.head.identity)
		return nil
	}
	return s.frames(name, r)
}

// frames reads every sound frame of a file.
func (s *salvage) frames(name string, r *reader) error {
	gaps := len(s.rest.Gaps)
	for r.off < r.size {
		at := r.off
		payload, count, err := r.frame()
		if err == nil && count == 0 && r.head.kind == kindSnapshot {
			if _, err := parseFooter(payload); err == nil && len(s.rest.Gaps) == gaps {
				s.whole = max(s.whole, r.head.number)
			}
			return nil
		}
		if err == nil {
			err = decodePayload(payload, count, s.take)
		}
		var damage badFrame
		if err != nil && !errors.As(err, &damage) {
			return fmt.Errorf("read %s: %w", s.e.path(name), bare(err))
		}
		if err == nil {
			continue
		}
		next, skipped, err := s.nextFrame(r, at)
		if err != nil {
			return err
		}
		if skipped {
			s.gap("%s: bytes %d to %d: %s", s.e.path(name), at, next, damage)
		}
		r.seek(next)
	}
	return nil
}

// nextFrame finds the next sound frame after at; skipped says whether what is before it is more than
// zeroes.
func (s *salvage) nextFrame(r *reader, at int64) (next int64, skipped bool, err error) {
	last, err := lastByte(r.f, at, r.size)
	if err != nil || last < at {
		return r.size, false, err
	}
	rest := make([]byte, last+1-at)
	if err := readFull(r.f, rest, at); err != nil {
		return 0, true, err
	}
	for i := 1; i < len(rest); i++ {
		n := bytes.Index(rest[i:], frameMagic[:])
		if n < 0 {
			break
		}
		i += n
		r.seek(at + int64(i))
		_, _, err := r.frame()
		if err == nil {
			return at + int64(i), true, nil
		}
		if damage := badFrame(""); !errors.As(err, &damage) {
			return 0, true, err
		}
	}
	return r.size, true, nil
}

func (s *salvage) take(r engine.Record) error {
	s.rest.Revision = max(s.rest.Revision, r.Revision)
	if r.Revision > s.newest[r.Key].Revision {
		s.newest[r.Key] = r
	}
	return nil
}

// Create makes a store of the records in opts.Dir, which must hold none. It goes on after revision
// after, which must not be before any record's. It returns the new store's identity.
func Create(opts Options, records []engine.Record, after int64) (id string, err error) {
	opts.After = after
	e, err := Open(opts)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	have, err := e.survey()
	if err != nil {
		return "", err
	}
	if len(have.logs) > 0 || have.snapshot.name != "" {
		return "", fmt.Errorf("%s holds a store already", e.dir)
	}
	e.identity = newIdentity()
	if len(records) > 0 {
		if err := e.imprint(records, after); err != nil {
			return "", err
		}
	}
	loaded, err := e.Load(func(engine.Record) error { return nil })
	return loaded.Identity, err
}

// imprint writes the records as the snapshot of a store that has no log yet, and its first log.
func (e *Engine) imprint(records []engine.Record, after int64) error {
	f, err := e.fs.Create(e.path(tmpSnap))
	if err != nil {
		return err
	}
	head := header{kind: kindSnapshot, salt: newSalt(), identity: e.identity, number: after}
	w := &snapshotWriter{f: f, name: e.path(tmpSnap), salt: head.salt, cancelled: e.closing.Load}
	err = w.begin(&head)
	for i := range records {
		if err == nil {
			err = w.add(&records[i])
		}
	}
	if err == nil {
		err = w.finish(after)
	}
	if err == nil {
		err = w.end()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := e.nameSnapshot(after); err != nil {
		return err
	}
	e.last = after
	if err := e.startLog(); err != nil {
		return err
	}
	if err := e.openMark(false); err != nil {
		return err
	}
	err = errors.Join(e.active.Close(), e.markFile.Close())
	e.active, e.markFile = nil, nil // Load opens them
	return err
}
