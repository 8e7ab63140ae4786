// Package bbolt is the candidate go.etcd.io/bbolt: a copy-on-write B+tree.
package bbolt

import (
	"bytes"

	bolt "go.etcd.io/bbolt"

	"coracle/internal/store/engine"
	"coracle/test/bench/engines/blob"
)

// Engine implements engine.Engine.
type Engine struct{ db *bolt.DB }

var bucket = []byte("objects")

// Open opens dir/bolt.db as etcd does: without syncing the free list.
func Open(dir string) (engine.Engine, error) {
	db, err := bolt.Open(dir+"/bolt.db", 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	return &Engine{db}, db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
}

// Load implements engine.Engine.
func (e *Engine) Load(fn func(engine.Record) error) (l engine.Loaded, err error) {
	return l, e.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(_, v []byte) error {
			r, err := blob.Decode(bytes.Clone(v))
			if err != nil {
				return err
			}
			l.Revision = max(l.Revision, r.Revision)
			return fn(r)
		})
	})
}

// Commit implements engine.Engine.
func (e *Engine) Commit(batch []engine.Record) error {
	return e.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		for i := range batch {
			r := &batch[i]
			if r.Delete {
				if err := b.Delete([]byte(r.Key)); err != nil {
					return err
				}
				continue
			}
			if err := b.Put([]byte(r.Key), blob.Append(nil, r)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Size, Compact and Close implement engine.Engine; bbolt reuses its pages.
func (e *Engine) Size() (int64, int64)                                 { return 0, 0 }
func (e *Engine) Compact(func(string, int64) bool, func() int64) error { return nil }

// Reserve implements engine.Engine.
func (e *Engine) Reserve(int64) error { return nil }
func (e *Engine) Close() error        { return e.db.Close() }
