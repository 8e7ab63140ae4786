// Package pebble is the candidate github.com/cockroachdb/pebble: a log-structured merge tree.
package pebble

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"

	"coracle/internal/store/engine"
	"coracle/test/bench/engines/blob"
)

// Engine implements engine.Engine.
type Engine struct {
	db  *pebble.DB
	buf []byte
}

// Open opens dir with pebble's default options, without its log output.
func Open(dir string) (engine.Engine, error) {
	db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{}})
	return &Engine{db: db}, err
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}

// Load implements engine.Engine.
func (e *Engine) Load(fn func(engine.Record) error) (l engine.Loaded, err error) {
	it, err := e.db.NewIter(nil)
	if err != nil {
		return l, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		r, err := blob.Decode(bytes.Clone(it.Value()))
		if err != nil {
			return l, err
		}
		l.Revision = max(l.Revision, r.Revision)
		if err := fn(r); err != nil {
			return l, err
		}
	}
	return l, it.Close()
}

// Commit implements engine.Engine.
func (e *Engine) Commit(batch []engine.Record) error {
	b := e.db.NewBatch()
	for i := range batch {
		r := &batch[i]
		if r.Delete {
			if err := b.Delete([]byte(r.Key), nil); err != nil {
				return err
			}
			continue
		}
		e.buf = blob.Append(e.buf[:0], r)
		if err := b.Set([]byte(r.Key), e.buf, nil); err != nil {
			return err
		}
	}
	return b.Commit(pebble.Sync)
}

// Size, Compact and Close implement engine.Engine; pebble compacts by itself.
func (e *Engine) Size() (int64, int64)                                 { return 0, 0 }
func (e *Engine) Compact(func(string, int64) bool, func() int64) error { return nil }

// Reserve implements engine.Engine.
func (e *Engine) Reserve(int64) error { return nil }
func (e *Engine) Close() error        { return e.db.Close() }
