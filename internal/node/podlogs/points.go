package podlogs

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
)

// A directory can be seen in a volume of the host only where the host has one to mount it on. Those that are missing are
// made, empty, and marked: as made, and by each cluster that may have mounted something there. The last of them to go
// removes them. The marks are on the directories themselves, so that they outlive the processes, and the machine's boot.
// Directories of the user's have no mark, and stay.
const (
	madeMark  = "coracle.made"
	usersMark = "coracle.user."
)

// Dir is what the clusters of a machine lock while they make and remove mount points.
const Dir = "/run/coracle-logs"

// Points makes the machine's mount points.
type Points struct {
	// Lock is a directory that is made when it is missing, and removed; Dir by default.
	Lock string
	// Top is where they are; /var/log by default.
	Top string
}

func (p Points) lock() string { return cmp.Or(p.Lock, Dir) }

func (p Points) paths() []string { return []string{podsIn(p.Top), containersIn(p.Top)} }

// user is the mark of a cluster.
func user(home string) string {
	h := fnv.New64a()
	h.Write([]byte(home))
	return fmt.Sprintf("%s%016x", usersMark, h.Sum64())
}

// Hold makes the mount points where the directory that they belong into exists, on behalf of the cluster whose directory
// is home. It may be called again.
func (p Points) Hold(home string) error {
	return p.locked(func() error {
		for _, path := range p.paths() {
			if err := hold(path, home); err != nil {
				return fmt.Errorf("make %s, on which the logs of pods are mounted: %w; make it yourself, and it is used as it is", path, err)
			}
		}
		return nil
	})
}

func hold(path, home string) error {
	above, err := filetree.OpenDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing of it can be mounted either
	}
	if err != nil {
		return err
	}
	defer above.Close()
	name := filepath.Base(path)
	e, err := above.Entry(name)
	if errors.Is(err, fs.ErrNotExist) {
		return makePoint(above, name, home)
	}
	if errors.Is(err, unix.EXDEV) {
		return nil // a disk of the user's
	}
	if err != nil {
		return err
	}
	defer e.Close()
	if !e.IsDir() {
		return nil // a link of the user's, perhaps
	}
	dir, err := e.OpenDir()
	if err != nil {
		return err
	}
	defer dir.Close()
	marks, err := dir.Marks(madeMark)
	if err != nil || len(marks) == 0 {
		return err
	}
	return dir.Mark(user(home), home)
}

// makePoint makes a directory that has its marks from the beginning: a process that is killed in between leaves a draft,
// which the next one takes up, or the last removes.
func makePoint(above *filetree.Dir, name, home string) error {
	dir, err := above.Make(draft(name), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = dir.Mark(madeMark, "1")
	if err == nil {
		err = dir.Mark(user(home), home)
	}
	if err == nil {
		err = above.RenameNew(draft(name), name)
	}
	if err == nil {
		return nil
	}
	if rerr := above.RemoveEmpty(draft(name)); !errors.Is(err, fs.ErrExist) { // else somebody made it meanwhile
		return errors.Join(err, rerr)
	}
	return nil
}

func draft(name string) string { return "." + name + ".coracle" }

// Release takes back what was held for a cluster that has no containers any more, and removes the mount points that no
// other needs. Releasing what is not held is no error.
func (p Points) Release(home string) error {
	return p.locked(func() error {
		var errs []error
		for _, path := range p.paths() {
			if err := release(path, home); err != nil {
				errs = append(errs, fmt.Errorf("remove the mount point %s: %w", path, err))
			}
		}
		return errors.Join(errs...)
	})
}

func release(path, home string) error {
	above, err := filetree.OpenDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer above.Close()
	name := filepath.Base(path)
	return errors.Join(releaseIn(above, name, home), releaseIn(above, draft(name), home))
}

func releaseIn(above *filetree.Dir, name, home string) error {
	dir, err := above.Dir(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
			return nil // nothing that was made here
		}
		return err
	}
	defer dir.Close()
	marks, err := dir.Marks("coracle.")
	if err != nil || marks[madeMark] == "" && name[0] != '.' {
		return err
	}
	for mark, whose := range marks {
		if !strings.HasPrefix(mark, usersMark) {
			continue
		}
		if mark != user(home) && there(whose) {
			return dir.Unmark(user(home))
		}
	}
	err = above.RemoveEmpty(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		return dir.Unmark(user(home)) // somebody keeps something in it, and so it stays
	}
	return err
}

func there(path string) bool {
	e, err := filetree.At(path)
	if err == nil {
		e.Close()
	}
	return !errors.Is(err, fs.ErrNotExist)
}

// locked runs f while no other process of the machine is in here.
func (p Points) locked(f func() error) error {
	for {
		dir, err := filetree.MakeDir(p.lock(), 0o700)
		if errors.Is(err, fs.ErrNotExist) && there(filepath.Dir(p.lock())) {
			continue // another removed it between its making and its opening
		}
		if err != nil {
			return fmt.Errorf("lock %s: %w", p.lock(), err)
		}
		done, err := p.lockedBy(dir, f)
		dir.Close()
		if done || err != nil {
			return err
		}
	}
}

// lockedBy is locked with the lock's directory open. It has not been done where another removed that meanwhile.
func (p Points) lockedBy(dir *filetree.Dir, f func() error) (done bool, err error) {
	unlock, err := dir.Lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	above, err := filetree.OpenDir(filepath.Dir(p.lock()))
	if err != nil {
		return false, err
	}
	defer above.Close()
	if same, err := above.Same(filepath.Base(p.lock()), dir); !same || err != nil {
		return false, err
	}
	defer os.Remove(p.lock()) // another may be about to lock it, and sees that it is no more
	return true, f()
}
