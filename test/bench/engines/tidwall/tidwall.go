// Package tidwall is the candidate github.com/tidwall/wal. Its entries carry no checksum.
package tidwall

import (
	"github.com/tidwall/wal"

	"coracle/internal/store/engine"
	"coracle/test/bench/engines/blob"
)

// Engine implements engine.Engine.
type Engine struct {
	w     *wal.Log
	index uint64
}

// Open opens dir with the default options (sync on write).
func Open(dir string) (engine.Engine, error) {
	w, err := wal.Open(dir, nil)
	return &Engine{w: w}, err
}

// Load implements engine.Engine.
func (e *Engine) Load(fn func(engine.Record) error) (l engine.Loaded, err error) {
	first, err := e.w.FirstIndex()
	if err != nil {
		return l, err
	}
	if e.index, err = e.w.LastIndex(); err != nil || e.index == 0 {
		return l, err
	}
	for i := first; i <= e.index; i++ {
		data, err := e.w.Read(i)
		if err != nil {
			return l, err
		}
		r, err := blob.Decode(data)
		if err != nil {
			return l, err
		}
		l.Revision = r.Revision
		if err := fn(r); err != nil {
			return l, err
		}
	}
	return l, nil
}

// Commit implements engine.Engine.
func (e *Engine) Commit(batch []engine.Record) error {
	var b wal.Batch
	for i := range batch {
		e.index++
		b.Write(e.index, blob.Append(nil, &batch[i]))
	}
	return e.w.WriteBatch(&b)
}

// Size, Compact and Close implement engine.Engine.
func (e *Engine) Size() (int64, int64)                                 { return 0, 0 }
func (e *Engine) Compact(func(string, int64) bool, func() int64) error { return nil }

// Reserve implements engine.Engine.
func (e *Engine) Reserve(int64) error { return nil }
func (e *Engine) Close() error        { return e.w.Close() }
