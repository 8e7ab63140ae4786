package store

import (
	"errors"
	"fmt"
	"time"

	"coracle/internal/store/engine"
	"coracle/internal/store/engine/wal"
)

// ErrHolds is returned by Begin for a directory whose store has been written to.
var ErrHolds = errors.New("there is a store already")

// Begin makes an empty store in cfg.Dir and returns its identity. One that was begun and never written to
// will do; any other is ErrHolds. What can be found damaged is.
func Begin(cfg Config) (identity string, err error) {
	e, err := wal.Open(cfg.files())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	loaded, err := e.Load(func(engine.Record) error { return nil })
	if err != nil {
		return "", err
	}
	if loaded.Revision > 0 {
		return "", fmt.Errorf("%s: %w", cfg.Dir, ErrHolds)
	}
	return loaded.Identity, nil
}

// Check reads the store in cfg.Dir as Open would, and returns why it would be refused.
func Check(cfg Config) (err error) {
	e, err := wal.Open(cfg.files())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	_, err = e.Load(func(engine.Record) error { return nil })
	return err
}

// Rebuilt says what Rebuild made of a damaged store.
type Rebuilt struct {
	// Identity is the new store's.
	Identity string
	// Objects is how many it holds; Gaps say what of the old files could not be read.
	Objects int
	Gaps    []string
	// Known is the newest revision the old store is known to have had, 0 when nothing tells; After is the
	// revision after which the new one goes on. No revision that a client may have seen comes again.
	Known, After int64
}

// beyond is how far after the newest known revision a rebuilt store goes on. After a power loss the
// mark may be behind by what the kernel had not written yet: half a minute.
const beyond = 10_000_000

// Rebuild makes another store in fresh.Dir: of what can be read of the damaged one in old.Dir, or, without
// keep, an empty one. The old one is left as it is.
func Rebuild(old, fresh Config, keep bool, now time.Time) (Rebuilt, error) {
	rest, err := wal.Salvage(old.files())
	if err != nil {
		return Rebuilt{}, err
	}
	made := Rebuilt{Gaps: rest.Gaps, Known: rest.Revision, After: rest.Revision + beyond}
	if rest.Revision == 0 {
		// Nothing tells where the old store was: milliseconds since 1970 are more than it can have counted.
		made.After = now.UnixMilli()
	}
	if !keep {
		rest.Records = nil
	}
	made.Objects = len(rest.Records)
	made.Identity, err = wal.Create(fresh.files(), rest.Records, made.After)
	return made, err
}
