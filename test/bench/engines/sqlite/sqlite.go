// Package sqlite is the candidate modernc.org/sqlite: SQLite translated to Go.
package sqlite

import (
	"database/sql"

	_ "modernc.org/sqlite" // the driver

	"coracle/internal/store/engine"
)

// Engine implements engine.Engine.
type Engine struct {
	db       *sql.DB
	put, del *sql.Stmt
}

// Open opens dir/sqlite.db in WAL mode, every commit synced.
func Open(dir string) (engine.Engine, error) {
	db, err := sql.Open("sqlite", "file:"+dir+"/sqlite.db?_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(`create table if not exists o (k text primary key, rev integer, exp integer, v blob) without rowid`); err != nil {
		return nil, err
	}
	e := &Engine{db: db}
	if e.put, err = db.Prepare(`insert or replace into o values (?, ?, ?, ?)`); err != nil {
		return nil, err
	}
	e.del, err = db.Prepare(`delete from o where k = ?`)
	return e, err
}

// Load implements engine.Engine.
func (e *Engine) Load(fn func(engine.Record) error) (l engine.Loaded, err error) {
	rows, err := e.db.Query(`select k, rev, exp, v from o`)
	if err != nil {
		return l, err
	}
	for rows.Next() {
		var r engine.Record
		if err := rows.Scan(&r.Key, &r.Revision, &r.Expires, &r.Value); err != nil {
			return l, err
		}
		l.Revision = max(l.Revision, r.Revision)
		if err := fn(r); err != nil {
			return l, err
		}
	}
	return l, rows.Close()
}

// Commit implements engine.Engine.
func (e *Engine) Commit(batch []engine.Record) error {
	tx, err := e.db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	put, del := tx.Stmt(e.put), tx.Stmt(e.del)
	for i := range batch {
		r := &batch[i]
		if r.Delete {
			_, err = del.Exec(r.Key)
		} else {
			_, err = put.Exec(r.Key, r.Revision, r.Expires, r.Value)
		}
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Size, Compact and Close implement engine.Engine; SQLite checkpoints by itself.
func (e *Engine) Size() (int64, int64)                                 { return 0, 0 }
func (e *Engine) Compact(func(string, int64) bool, func() int64) error { return nil }

// Reserve implements engine.Engine.
func (e *Engine) Reserve(int64) error { return nil }
func (e *Engine) Close() error        { return e.db.Close() }
