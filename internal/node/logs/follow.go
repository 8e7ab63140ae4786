package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// follower wakes when a log or its directory changes (inotify(7)).
type follower struct {
	path   string
	file   *os.File // of the inotify instance
	events chan error
}

func newFollower(path string) (*follower, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("follow %s: inotify: %w", path, err)
	}
	t := &follower{path: path, file: os.NewFile(uintptr(fd), "inotify"), events: make(chan error, 1)}
	dir := filepath.Dir(path)
	// The directory's watch reports writes to the files in it as well as new ones.
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.file.Close()
		return nil, fmt.Errorf("follow %s: %w", path, err)
	}
	go t.listen()
	return t, nil
}

// listen turns bursts of events into single wakes.
func (t *follower) listen() {
	buf := make([]byte, 4096)
	for {
		_, err := t.file.Read(buf)
		select {
		case t.events <- err:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (t *follower) close() { t.file.Close() }

// wait returns after the next change; ended is true when the container has ended.
func (t *follower) wait(ctx context.Context, done <-chan struct{}) (ended bool, err error) {
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-done:
		return true, nil
	case err := <-t.events:
		return false, err
	}
}

// rotated returns the log's new file when f, read to its end, is no longer it: the runtime renames
// a full log and begins another under the same name. More is true when f has grown meanwhile.
func (t *follower) rotated(f *os.File) (next *os.File, more bool, err error) {
	now, err := open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil // between rename and creation, or removed
	}
	if err != nil {
		return nil, false, err
	}
	defer func() {
		if next == nil {
			now.Close()
		}
	}()
	is, err := now.Stat()
	if err != nil {
		return nil, false, err
	}
	had, err := f.Stat()
	if err != nil || os.SameFile(had, is) {
		return nil, false, err
	}
	// What was written between our last read and the rename must not be lost.
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil || at < had.Size() {
		return nil, true, err
	}
	return now, false, nil
}
