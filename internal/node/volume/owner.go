package volume

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/filetree"
)

func fsGroup(pod *corev1.Pod) *int64 {
	if s := pod.Spec.SecurityContext; s != nil {
		return s.FSGroup
	}
	return nil
}

// ownership says how a volume is given to a group.
type ownership struct {
	recursive bool
	write     bool
}

// setGroup gives a volume to a group: directories pass it on (setgid), files can be read and, where write is set,
// written by it. Other pods may write in the volume meanwhile: each file is looked at and changed through one
// descriptor, so that a link put in its place is never followed. What is mounted inside the volume is not the volume's
// and is left as it is.
func setGroup(root string, group int64, o ownership) error {
	e, err := filetree.At(root)
	if err != nil {
		return err
	}
	defer e.Close()
	return o.apply(e, group)
}

// apply gives a volume, held by its root, to a group.
func (o ownership) apply(root *filetree.Entry, group int64) error {
	if !o.recursive {
		return o.give(root, group)
	}
	return root.Survey(o.visit(group))
}

// visit gives each file of a walk to a group.
func (o ownership) visit(group int64) func(*filetree.Entry) error {
	return func(e *filetree.Entry) error {
		err := o.give(e, group)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // some file systems refuse to change a file that was removed meanwhile
		}
		if err == nil && e.Level == filetree.MaxLevels {
			return filetree.ErrSkip // who nests so deep means to keep others from the volume
		}
		return err
	}
}

// give changes one file, and nothing of it that is right already: a second pod's start costs looking only.
func (o ownership) give(e *filetree.Entry, group int64) error {
	if int64(e.Stat.Gid) == group && (e.IsLink() || o.mode(e) == e.Stat.Mode&0o7777) {
		return nil
	}
	if err := e.Hold(); err != nil {
		return err
	}
	if int64(e.Stat.Gid) != group {
		if err := e.Chown(-1, int(group)); err != nil {
			return err
		}
	}
	if e.IsLink() {
		return nil
	}
	// Also where the mode was right: giving a program away takes its set-user-ID bits (chown(2)), and upstream puts them back.
	return e.Chmod(o.mode(e))
}

// mode is what the permissions of a file become.
func (o ownership) mode(e *filetree.Entry) uint32 {
	mode := e.Stat.Mode&0o7777 | 0o440
	if o.write {
		mode |= 0o660
	}
	if e.IsDir() {
		mode |= 0o110 | unix.S_ISGID
	}
	return mode
}

// rootMatches says whether the change of a volume's group can be left out: the pod asks for
// OnRootMismatch and the root is as it should be.
func rootMatches(pod *corev1.Pod, root *filetree.Entry, group int64) bool {
	s := pod.Spec.SecurityContext
	if s == nil || s.FSGroupChangePolicy == nil || *s.FSGroupChangePolicy != corev1.FSGroupChangeOnRootMismatch {
		return false
	}
	const wanted = unix.S_ISGID | 0o770
	return int64(root.Stat.Gid) == group && root.Stat.Mode&wanted == wanted
}
