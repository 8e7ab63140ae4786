package image

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// ErrNoRoom says that an image would leave the disk with less than what is kept free of it.
var ErrNoRoom = errors.New("there is no room for the image")

// The part of a file system that images leave free, a twentieth of its bytes and of its inodes. The cluster's own store
// and the pods' volumes are often on the same disk, and a layer may be a thousand times its archive.
const (
	reservedShare = 20
	// reservedMost bounds the reserve of large disks.
	reservedMost = 2 << 30
	// stride is how much is written before the file system is asked again.
	stride = 16 << 20
	// entries is how many files are made before the file system is asked again.
	entries = 4096
)

// room holds what is written for one image to what the disk can spare. It is not safe for concurrent use.
type room struct {
	dir string
	// bytes and files may be written before the file system is asked.
	bytes, files int64
}

func (s *Store) room() *room { return &room{dir: s.dir} }

// take counts n bytes that are about to be written. The error is ErrNoRoom when they would not leave the reserve.
func (r *room) take(n int64) error {
	if r.bytes -= n; r.bytes >= 0 {
		return nil
	}
	return r.ask(n)
}

// entry counts a file that is about to be made.
func (r *room) entry() error {
	if r.files--; r.files >= 0 {
		return nil
	}
	return r.ask(0)
}

// ask measures what the disk can spare, n bytes taken.
func (r *room) ask(n int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		return fmt.Errorf("ask the disk of images for its free space: %w", err)
	}
	free, reserve := int64(st.Bavail)*st.Bsize, min(int64(st.Blocks)*st.Bsize/reservedShare, reservedMost)
	if free-n < reserve {
		return fmt.Errorf("%w: its disk has %d MiB free, of which %d MiB are kept for the cluster; remove images (coracle image rm) or make room",
			ErrNoRoom, free>>20, reserve>>20)
	}
	r.files = entries
	if inodes := int64(st.Files) / reservedShare; st.Files > 0 { // btrfs and others have no number of inodes
		if int64(st.Ffree) <= inodes {
			return fmt.Errorf("%w: its disk has %d inodes free, of which %d are kept for the cluster; remove images (coracle image rm) or make room",
				ErrNoRoom, st.Ffree, inodes)
		}
		r.files = min(entries, int64(st.Ffree)-inodes)
	}
	r.bytes = min(stride, free-n-reserve)
	return nil
}

// limit returns a writer to w that takes the room for what it writes.
func (r *room) limit(w io.Writer) io.Writer { return limited{w, r} }

type limited struct {
	w    io.Writer
	room *room
}

func (l limited) Write(p []byte) (int, error) {
	if err := l.room.take(int64(len(p))); err != nil {
		return 0, err
	}
	return l.w.Write(p)
}
