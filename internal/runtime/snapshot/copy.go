package snapshot

import (
	"errors"
	"fmt"
	"io"
	"path"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
)

// Copy fills the directory to with what is in the directory from, with owners and modes, links as links; to itself
// takes over from's. It is how a volume that an image declares begins. Sockets, FIFOs and devices are left out: they are
// not data.
func Copy(from *filetree.Entry, to *filetree.Dir) error {
	at := from.Path
	err := from.Survey(func(e *filetree.Entry) error {
		if e.Path == "." {
			return likewise(to, ".", e)
		}
		in, err := reach(to, path.Dir(e.Path))
		if err != nil {
			return err
		}
		defer in.Close()
		return copyEntry(e, in)
	})
	if err != nil {
		return fmt.Errorf("copy %s: %w", at, err)
	}
	return nil
}

// reach opens a directory some steps below another.
func reach(top *filetree.Dir, below string) (*filetree.Dir, error) {
	e, err := top.Entry(below)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return e.OpenDir()
}

func copyEntry(e *filetree.Entry, in *filetree.Dir) error {
	name := path.Base(e.Path)
	switch {
	case e.IsDir():
		dir, err := in.MakeNew(name, 0o700)
		if err != nil {
			return err
		}
		dir.Close()
	case e.IsRegular():
		if err := copyFile(e, in, name); err != nil {
			return err
		}
	case e.IsLink():
		target, err := e.Readlink()
		if err != nil {
			return err
		}
		if err := in.Symlink(target, name); err != nil {
			return err
		}
	default:
		return nil
	}
	return likewise(in, name, e)
}

// likewise gives the copy of a file its owner and mode.
func likewise(in *filetree.Dir, name string, e *filetree.Entry) error {
	made, err := in.Entry(name)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := made.Chown(int(e.Stat.Uid), int(e.Stat.Gid)); err != nil || e.IsLink() {
		return err
	}
	return made.Chmod(e.Stat.Mode & 0o7777)
}

func copyFile(e *filetree.Entry, in *filetree.Dir, name string) error {
	from, err := e.Open(unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := in.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}
