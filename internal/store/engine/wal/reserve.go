package wal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// A compaction writes before it can remove, so that on a full disk nothing could ever be freed had it not room of its
// own. Two files of no content hold it: the next snapshot and the next log are written into them, and the files that the
// compaction leaves without use become the next two. The room passes from hand to hand: it is never the
// disk's, where somebody else could take it.
const (
	reserveName = "reserve"     // becomes the next snapshot
	spareName   = "reserve.log" // becomes the next log
	// reserveMin is what a snapshot may need besides its records: its frames, and blocks of the directory.
	reserveMin = 256 << 10
	// firstSnapshot is more than what a snapshot of no records takes.
	firstSnapshot = 4 << 10
)

// room is what is held. Its mutex comes after Engine.compacting and Engine.mu.
type room struct {
	is     int64 // bytes of the reserve
	asked  bool  // room is to be held
	wanted int64 // bytes of records the reserve is to be enough for
	spare  bool  // the spare log is there
}

// reserveFor is how large the reserve must be for a snapshot of so many bytes of records. What of them is not in the present
// snapshot is in the log: that file gives less room than the others for the next log.
func reserveFor(bytes, snapshot, ahead int64) int64 {
	out := bytes + bytes/16 + reserveMin + min(max(bytes-snapshot, 0), ahead)
	if snapshot == 0 {
		out += firstSnapshot
	}
	return out
}

func (e *Engine) reserveFor(bytes int64) int64 {
	return reserveFor(bytes, e.compacted.Load(), e.opts.Ahead)
}

// Reserve implements engine.Engine. What is reserved is given back only when much less is wanted.
func (e *Engine) Reserve(bytes int64) error {
	e.roomMu.Lock()
	defer e.roomMu.Unlock()
	want := e.reserveFor(bytes)
	if err := e.fillSpare(); err != nil {
		return err
	}
	if e.room.is < want || e.room.is > 2*want {
		if err := e.resizeReserve(want); err != nil {
			return err
		}
	}
	e.room.asked, e.room.wanted = true, bytes
	return nil
}

// findRoom looks what is held from an earlier life.
func (e *Engine) findRoom() {
	e.room.is, _ = e.sizeOf(reserveName)
	spare, _ := e.sizeOf(spareName)
	e.room.spare = spare >= e.opts.Ahead
}

func (e *Engine) sizeOf(name string) (size int64, err error) {
	f, err := e.fs.Open(e.path(name))
	if err != nil {
		return 0, err
	}
	size, err = f.Size()
	return size, errors.Join(err, f.Close())
}

// resizeReserve needs roomMu held. After an error the reserve is as it was.
func (e *Engine) resizeReserve(want int64) error {
	err := e.resize(reserveName, e.room.is, want)
	if err != nil {
		return fmt.Errorf("keep %d bytes for a compaction in %s: %w", want, e.path(reserveName), bare(err))
	}
	e.room.is = want
	return nil
}

// fillSpare needs roomMu held.
func (e *Engine) fillSpare() error {
	if e.room.spare {
		return nil
	}
	if err := e.resize(spareName, 0, e.opts.Ahead); err != nil {
		_ = e.fs.Remove(e.path(spareName))
		return fmt.Errorf("keep %d bytes for a log in %s: %w", e.opts.Ahead, e.path(spareName), bare(err))
	}
	e.room.spare = true
	return nil
}

// resize makes a file that holds room larger or smaller. It makes the file if there is none.
func (e *Engine) resize(name string, is, want int64) error {
	f, err := e.fs.Open(e.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = e.fs.Create(e.path(name))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if is > want {
		return f.Truncate(want)
	}
	if err := f.Allocate(want); err != nil {
		_ = f.Truncate(is) // what was taken in part is left to others
		return err
	}
	return nil
}

// tidy makes room of what an interrupted compaction left behind.
func (l *loading) tidy() error {
	e := l.e
	e.findRoom()
	files := make([]unused, 0, len(l.have.stale))
	for _, name := range l.have.stale {
		if name == e.name {
			continue
		}
		size, err := e.sizeOf(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // became the log
		}
		if err != nil {
			return err
		}
		files = append(files, unused{name, size})
		e.room.asked, e.room.wanted = true, max(e.room.wanted, size) // until Reserve says how much
	}
	return e.retire(files...)
}

// claim turns held room into the file called name, whose content is to be written over. Where none is held
// it makes an empty file.
func (e *Engine) claim(held, name string) (File, error) {
	e.roomMu.Lock()
	defer e.roomMu.Unlock()
	has := held == reserveName && e.room.is > 0 || held == spareName && e.room.spare
	if !has {
		return e.fs.Create(e.path(name))
	}
	if err := e.fs.Rename(e.path(held), e.path(name)); err != nil {
		return nil, err
	}
	if held == reserveName {
		e.room.is = 0
	} else {
		e.room.spare = false
	}
	return e.fs.Open(e.path(name))
}

// unused is a file that is not needed any more.
type unused struct {
	name string
	size int64
}

// retire turns files without use into held room, as far as it is wanted, and removes the others.
func (e *Engine) retire(files ...unused) error {
	e.roomMu.Lock()
	defer e.roomMu.Unlock()
	return e.retireLocked(files)
}

func (e *Engine) retireLocked(files []unused) error {
	var errs []error
	want := int64(0)
	if e.room.asked {
		want = e.reserveFor(e.room.wanted)
	}
	// The largest becomes the reserve, so that little must be asked of the disk.
	slices.SortFunc(files, func(a, b unused) int { return cmp.Compare(b.size, a.size) })
	for _, f := range files {
		var err error
		switch {
		case f.size > e.room.is && e.room.is < want:
			if err = e.fs.Rename(e.path(f.name), e.path(reserveName)); err == nil {
				e.room.is = f.size
			}
		case f.size >= e.opts.Ahead && !e.room.spare && want > 0:
			err = e.resize(f.name, f.size, e.opts.Ahead)
			if err == nil {
				err = e.fs.Rename(e.path(f.name), e.path(spareName))
			}
			e.room.spare = err == nil
		default:
			err = e.fs.Remove(e.path(f.name))
		}
		errs = append(errs, err)
	}
	if want > 0 {
		errs = append(errs, e.settleRoom(want))
	}
	return errors.Join(errs...)
}

// settleSteps is in how many steps less is asked for where the wanted size does not fit.
const settleSteps = 32

// settleRoom divides what was found. What is missing is asked for again by the next Reserve.
func (e *Engine) settleRoom(want int64) (err error) {
	step := (want - e.reserveFor(e.compacted.Load())) / settleSteps
	for i := range int64(settleSteps + 1) {
		size := want - i*max(step, 0)
		if e.room.is > 2*size || e.room.is > size && !e.room.spare {
			err = e.resizeReserve(size)
		}
		if err == nil {
			err = e.fillSpare()
		}
		if err == nil && e.room.is < size {
			err = e.resizeReserve(size)
		}
		if err == nil || !full(err) {
			return err
		}
		err = nil
	}
	return nil
}
