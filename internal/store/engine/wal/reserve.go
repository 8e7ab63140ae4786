package wal

import (
	"errors"
	"fmt"
	"io/fs"
)

// The reserve is a file of no content that holds room on the disk: a compaction writes before it can
// remove, so that on a full disk nothing could ever be freed without it.
const (
	reserveName = "reserve"
	// reserveRoom is what a compaction needs besides what it leaves: a new log, and directory blocks.
	reserveRoom = growMin + 1<<20
)

// Reserve implements engine.Engine. What is reserved is given back only when much less is wanted.
// While a compaction runs, which may be spending it, the wish is noted for its end.
func (e *Engine) Reserve(bytes int64) error {
	idle := e.compacting.TryLock()
	if idle {
		defer e.compacting.Unlock()
	}
	e.reserveMu.Lock()
	defer e.reserveMu.Unlock()
	e.reserveFor = bytes + reserveRoom
	if !idle {
		return nil
	}
	if e.reserveIs >= e.reserveFor && e.reserveIs <= 2*e.reserveFor {
		return nil
	}
	return e.fillReserve()
}

// findReserve looks how much is reserved from an earlier life.
func (e *Engine) findReserve() {
	f, err := e.fs.Open(e.path(reserveName))
	if err != nil {
		return
	}
	e.reserveIs, _ = f.Size()
	_ = f.Close()
}

// fillReserve makes the reserve as large as it is wanted. It needs reserveMu held.
func (e *Engine) fillReserve() error {
	f, err := e.fs.Open(e.path(reserveName))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = e.fs.Create(e.path(reserveName))
	}
	if err != nil {
		return fmt.Errorf("keep room for a compaction: %w", err)
	}
	defer f.Close()
	if e.reserveIs > e.reserveFor {
		err = f.Truncate(e.reserveFor)
	} else {
		err = f.Allocate(e.reserveFor)
	}
	if err != nil {
		_ = f.Truncate(e.reserveIs) // what was taken in part is left to others
		return fmt.Errorf("keep %d bytes for a compaction in %s: %w", e.reserveFor, e.path(reserveName), bare(err))
	}
	e.reserveIs = e.reserveFor
	return nil
}

// spendReserve gives the room back to the disk; false when there was none.
func (e *Engine) spendReserve() bool {
	e.reserveMu.Lock()
	defer e.reserveMu.Unlock()
	if e.reserveIs == 0 || e.fs.Remove(e.path(reserveName)) != nil {
		return false
	}
	e.reserveIs = 0
	return true
}

// renewReserve takes back what spendReserve gave.
func (e *Engine) renewReserve() error {
	e.reserveMu.Lock()
	defer e.reserveMu.Unlock()
	if e.reserveFor <= e.reserveIs {
		return nil
	}
	return e.fillReserve()
}
