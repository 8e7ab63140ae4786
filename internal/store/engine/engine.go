// Package engine is the seam between the store and the disk: a Record is one write, an Engine
// keeps records durable.
//
// It owns the contract and nothing else. It refuses to interpret values, and knows neither
// watches nor history: those are package store's.
package engine

import (
	"errors"
	"fmt"
)

// Record is one write.
type Record struct {
	// Revision is unique in the cluster and grows with every record.
	Revision int64
	// Key is the object's full key.
	Key string
	// Value is the encoded object; it is ignored when Delete is set.
	Value []byte
	// Delete marks the removal of Key.
	Delete bool
	// Adds marks a Key that was not there: on a full disk such records are refused first, so that what is there
	// can still be changed and removed. It is not kept.
	Adds bool
	// Expires is the Unix time in seconds after which the object is to be removed; 0 is never.
	Expires int64
}

// Loaded tells what Load found.
type Loaded struct {
	// Revision is the highest revision found, 0 in an empty engine.
	Revision int64
	// Complete is the revision after which no record has been dropped by compaction: the
	// records after it are the full history.
	Complete int64
	// Identity names the store: another one, and one begun anew, has another. It is empty where
	// nothing is kept.
	Identity string
	// Truncated counts the bytes of an unfinished write that Load cut off the end.
	Truncated int64
	// Known is the newest revision that is known to have been acknowledged; Load has found it.
	Known int64
	// Exact says that nothing after Known was acknowledged. It is false after a power loss, where only the
	// disk's own promise says so.
	Exact bool
	// Outdated asks for a Compact soon: some files are of a format that is read and not written any more.
	Outdated bool
}

// Engine keeps records durable. Load is called once, first. Commit is called by one goroutine at
// a time; Compact may run beside it.
type Engine interface {
	// Load passes the durable records to fn in an order in which a later record of a key has a
	// higher revision. Record.Value may be kept by fn. What had been acknowledged and is missing
	// or damaged gives a *DamageError, and nothing is changed.
	Load(fn func(Record) error) (Loaded, error)
	// Commit makes the batch durable before it returns nil: the batch is there whole after a
	// crash. Revisions grow within a batch and from batch to batch. After an error nothing of
	// the batch is there, unless the error is ErrFatal: then it may be there, in whole records.
	Commit(batch []Record) error
	// Size returns the bytes on disk: those that belong to the compacted part and those written since.
	Size() (compacted, since int64)
	// Compact drops records that are no longer live. live must answer for a durable record
	// whether it is still the newest durable one of its key; revision returns the newest
	// durable revision. A Compact cut short by Close or a crash has no effect.
	Compact(live func(key string, revision int64) bool, revision func() int64) error
	// Reserve keeps room on the disk for a compaction that leaves so many bytes of records, for when the disk
	// is full. Without an error it is there; after one, what was kept before still is. A compaction that comes
	// between spends and renews it: whether that went well, asking again tells, at little cost.
	Reserve(bytes int64) error
	// Close releases the engine. Committed records stay.
	Close() error
}

// DamageError reports that something that had been acknowledged, or what vouches for it, is damaged,
// missing, or not this store's. Nothing was changed.
type DamageError struct {
	// File is the file concerned, or the directory where files are missing.
	File string
	// Offset is the position of the damage in File; 0 is the file as a whole.
	Offset int64
	Reason string
}

func (e *DamageError) Error() string {
	if e.Offset == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("%s: damaged at byte %d: %s", e.File, e.Offset, e.Reason)
}

// ErrFatal marks (with errors.Is) a failure after which the engine refuses every further Commit
// until it is opened again, because what is on disk is not known.
var ErrFatal = errors.New("engine failed, reopen it")
