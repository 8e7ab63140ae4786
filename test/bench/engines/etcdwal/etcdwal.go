// Package etcdwal is the candidate go.etcd.io/etcd/server/v3/storage/wal: etcd's raft log. It has no
// snapshots of its own; those would be ours.
package etcdwal

import (
	"os"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"coracle/internal/store/engine"
	"coracle/test/bench/engines/blob"
)

// Engine implements engine.Engine.
type Engine struct {
	dir   string
	w     *wal.WAL
	index uint64
}

// Open makes dir/wal, or leaves the opening to Load, which has to read everything first.
func Open(dir string) (engine.Engine, error) {
	e := &Engine{dir: dir + "/wal"}
	if _, err := os.Stat(e.dir); err == nil {
		return e, nil
	}
	w, err := wal.Create(zap.NewNop(), e.dir, nil)
	if err != nil {
		return nil, err
	}
	return e, w.Close()
}

// Load implements engine.Engine.
func (e *Engine) Load(fn func(engine.Record) error) (l engine.Loaded, err error) {
	if e.w, err = wal.Open(zap.NewNop(), e.dir, &walpb.Snapshot{Index: proto.Uint64(0), Term: proto.Uint64(0)}); err != nil {
		return l, err
	}
	_, _, entries, err := e.w.ReadAll()
	if err != nil {
		return l, err
	}
	for _, ent := range entries {
		r, err := blob.Decode(ent.GetData())
		if err != nil {
			return l, err
		}
		e.index, l.Revision = ent.GetIndex(), r.Revision
		if err := fn(r); err != nil {
			return l, err
		}
	}
	return l, nil
}

// Commit implements engine.Engine.
func (e *Engine) Commit(batch []engine.Record) error {
	entries := make([]*raftpb.Entry, len(batch))
	for i := range batch {
		e.index++
		entries[i] = &raftpb.Entry{Index: proto.Uint64(e.index), Term: proto.Uint64(1), Type: raftpb.EntryNormal.Enum(), Data: blob.Append(nil, &batch[i])}
	}
	return e.w.Save(&raftpb.HardState{}, entries)
}

// Size, Compact and Close implement engine.Engine.
func (e *Engine) Size() (int64, int64)                                 { return 0, 0 }
func (e *Engine) Compact(func(string, int64) bool, func() int64) error { return nil }

// Reserve implements engine.Engine.
func (e *Engine) Reserve(int64) error { return nil }
func (e *Engine) Close() error        { return e.w.Close() }
