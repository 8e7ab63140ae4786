package wal

import (
	"errors"
	"fmt"
)

// tmpLog is a log that has no number yet.
const tmpLog = "log.tmp"

// startLog makes the active log, empty and durable.
func (e *Engine) startLog() error {
	f, err := e.prepareLog()
	if err != nil {
		return err
	}
	return e.switchLog(f)
}

// prepareLog does what takes long about a new log: its room.
func (e *Engine) prepareLog() (f File, err error) {
	f, err = e.claim(spareName, tmpLog)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", e.path(tmpLog), bare(err))
	}
	err = writeZeroes(f, 0, e.opts.Ahead)
	if err == nil {
		err = f.Datasync()
	}
	if err != nil {
		return nil, e.dropLog(f, fmt.Errorf("write %s: %w", e.path(tmpLog), bare(err)))
	}
	return f, nil
}

// dropLog gives up a log that was not begun: its room is kept. It returns cause.
func (e *Engine) dropLog(f File, cause error) error {
	size, err := f.Size()
	return errors.Join(cause, err, f.Close(), e.retire(unused{tmpLog, size}))
}

// switchLog makes f the active log. Its header says what comes before it, which is known only once
// nothing more is written there.
func (e *Engine) switchLog(f File) error {
	head := header{kind: kindLog, salt: newSalt(), identity: e.identity, number: e.last + 1, previous: e.chain}
	_, err := f.WriteAt(head.encode(), 0)
	if err == nil {
		err = f.Datasync()
	}
	if err != nil {
		return e.dropLog(f, fmt.Errorf("write %s: %w", e.path(tmpLog), bare(err)))
	}
	name := logName(head.number)
	if err := e.fs.Rename(e.path(tmpLog), e.path(name)); err != nil {
		return e.dropLog(f, err)
	}
	if err := e.fs.SyncDir(e.dir); err != nil {
		// Whether the new log is there after a crash is not known: going on with the old one
		// could leave two logs with a torn end each.
		return errors.Join(e.fail(err), f.Close())
	}
	e.active, e.name, e.number, e.salt, e.off, e.reserved = f, name, head.number, head.salt, headerSize, e.opts.Ahead
	if e.markFile == nil {
		return nil // the store is being begun
	}
	if err := e.setMark(false, true); err != nil {
		return e.fail(err)
	}
	return nil
}
