// Package raftwal is the candidate github.com/hashicorp/raft-wal. It has no snapshots of its own.
package raftwal

import (
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"coracle/internal/store/engine"
	"coracle/test/bench/engines/blob"
)

// Engine implements engine.Engine.
type Engine struct {
	w     *wal.WAL
	index uint64
}

// Open opens dir with the default options.
func Open(dir string) (engine.Engine, error) {
	w, err := wal.Open(dir)
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
		var log raft.Log
		if err := e.w.GetLog(i, &log); err != nil {
			return l, err
		}
		r, err := blob.Decode(log.Data)
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
	logs := make([]*raft.Log, len(batch))
	for i := range batch {
		e.index++
		logs[i] = &raft.Log{Index: e.index, Term: 1, Data: blob.Append(nil, &batch[i])}
	}
	return e.w.StoreLogs(logs)
}

// Size, Compact and Close implement engine.Engine.
func (e *Engine) Size() (int64, int64)                                 { return 0, 0 }
func (e *Engine) Compact(func(string, int64) bool, func() int64) error { return nil }

// Reserve implements engine.Engine.
func (e *Engine) Reserve(int64) error { return nil }
func (e *Engine) Close() error        { return e.w.Close() }
