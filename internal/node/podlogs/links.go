package podlogs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/filetree"
)

// Log is one attempt of a container, as its log is called.
type Log struct {
	// Dir is the name of the pod's directory, NAMESPACE_NAME_UID.
	Dir string
	// Namespace and Pod are the pod's, Container and ID the container's.
	Namespace, Pod, Container, ID string
	// File is the log in the pod's directory.
	File string
}

// longestName of a file on the file systems in use (limits.h, NAME_MAX).
const longestName = 255

// link is what the link to a log is called. Where that is too long, the end of the container's ID is missing.
func (l Log) link() string {
	const end = ".log"
	name := l.Pod + "_" + l.Namespace + "_" + l.Container + "-" + l.ID
	return name[:min(len(name), longestName-len(end))] + end
}

// Link makes the link to a log that is about to be written. One of that name is replaced.
func (p Place) Link(l Log) error {
	dir, err := filetree.OpenDir(p.Links)
	if err != nil {
		return fmt.Errorf("link to the log of container %s: %w", l.Container, err)
	}
	defer dir.Close()
	target := filepath.Join(podsIn(p.Top), l.Dir, l.File)
	err = dir.Symlink(target, l.link())
	if errors.Is(err, fs.ErrExist) {
		if err = dir.Remove(l.link()); err == nil {
			err = dir.Symlink(target, l.link())
		}
	}
	if err != nil {
		return fmt.Errorf("link to the log of container %s: %w", l.Container, err)
	}
	return nil
}

// Forget removes the log of a container that was removed, what was rotated out of it, and the link to it. What is not
// there is no error.
func (p Place) Forget(l Log) error {
	if err := errors.Join(gone(p.dropLink(l)), gone(p.dropFiles(l))); err != nil {
		return fmt.Errorf("remove the log of container %s: %w", l.Container, err)
	}
	return nil
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (p Place) dropLink(l Log) error {
	dir, err := filetree.OpenDir(p.Links)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Remove(l.link())
}

func (p Place) dropFiles(l Log) error {
	dir, err := filetree.OpenDir(p.Logs)
	if err != nil {
		return err
	}
	defer func() { dir.Close() }()
	for step := range strings.SplitSeq(filepath.Join(l.Dir, filepath.Dir(l.File)), "/") {
		next, err := dir.Dir(step)
		if err != nil {
			return err
		}
		dir.Close()
		dir = next
	}
	names, err := dir.Names()
	if err != nil {
		return err
	}
	base := filepath.Base(l.File)
	var errs []error
	for _, name := range names {
		if name == base || strings.HasPrefix(name, base+".") {
			errs = append(errs, gone(dir.Remove(name)))
		}
	}
	return errors.Join(errs...)
}

// Keep removes the links, and the directories of logs, of all pods but those that there are.
func (p Place) Keep(present func(types.UID) bool) error {
	return errors.Join(p.keepIn(p.Logs, func(_ *filetree.Dir, name string) (string, error) { return name, nil }, present),
		p.keepIn(p.Links, p.linked, present))
}

// keepIn removes the entries of a directory that belong to a pod that is not there. Whose says which pod's directory
// an entry belongs to, empty for none.
func (p Place) keepIn(path string, whose func(*filetree.Dir, string) (string, error), present func(types.UID) bool) error {
	dir, err := filetree.OpenDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		pod, err := whose(dir, name)
		at := strings.LastIndexByte(pod, '_')
		if err == nil && at >= 0 && !present(types.UID(pod[at+1:])) {
			err = dir.Remove(name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// linked is the pod's directory that a link leads to; empty for anything that is not a link of ours.
func (p Place) linked(dir *filetree.Dir, name string) (string, error) {
	e, err := dir.Entry(name)
	if err != nil {
		return "", err
	}
	defer e.Close()
	if !e.IsLink() {
		return "", nil
	}
	target, err := e.Readlink()
	if err != nil {
		return "", err
	}
	rest, ours := strings.CutPrefix(target, podsIn(p.Top)+"/")
	if !ours {
		return "", nil
	}
	pod, _, _ := strings.Cut(rest, "/")
	return pod, nil
}

// Unlink removes the links to the logs of a pod that is gone.
func (p Place) Unlink(uid types.UID) error {
	return p.keepIn(p.Links, p.linked, func(other types.UID) bool { return other != uid })
}
