package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Two locks order the processes that share a store. The content lock is held
// shared by whoever adds content or leases, from its first blob until its
// name is in the index, and exclusively by whoever collects garbage: so
// nothing is collected that is on its way in. The index lock is held
// exclusively for the moment in which the index is read, changed and renamed
// into place. A holder of both takes the content lock first.
const (
	contentLock = "content.lock"
	indexLock   = "index.lock"
)

// lock takes the named lock and returns what lets it go. The kernel lets go
// by itself when the process dies.
func (s *Store) lock(name string, how int) (func(), error) {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	return func() { f.Close() }, nil
}
