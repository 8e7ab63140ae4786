package filetree

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// markSpace is where marks are kept: extended attributes that only those see who govern the machine (xattr(7)).
const markSpace = "trusted."

// Mark writes something on the directory, under a name: it stays with the directory, and goes with it.
func (d *Dir) Mark(name, text string) error {
	if err := unix.Fsetxattr(d.fd(), markSpace+name, []byte(text), 0); err != nil {
		return d.fail("mark", "", err)
	}
	return nil
}

// Unmark takes a mark off the directory. One that is not there is no error.
func (d *Dir) Unmark(name string) error {
	if err := unix.Fremovexattr(d.fd(), markSpace+name); err != nil && !errors.Is(err, unix.ENODATA) {
		return d.fail("unmark", "", err)
	}
	return nil
}

// Marks returns the marks on the directory whose names begin with prefix. A file system that keeps none has none.
func (d *Dir) Marks(prefix string) (map[string]string, error) {
	names, err := d.attribute(func(buf []byte) (int, error) { return unix.Flistxattr(d.fd(), buf) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, d.fail("read the marks of", "", err)
	}
	out := map[string]string{}
	for raw := range bytes.SplitSeq(names, []byte{0}) {
		name, ok := strings.CutPrefix(string(raw), markSpace)
		if !ok || !strings.HasPrefix(name, prefix) {
			continue
		}
		text, err := d.attribute(func(buf []byte) (int, error) { return unix.Fgetxattr(d.fd(), markSpace+name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue // taken off meanwhile
		}
		if err != nil {
			return nil, d.fail("read the marks of", "", err)
		}
		out[name] = string(text)
	}
	return out, nil
}

// attribute reads what a call fills a buffer with, which is as large as it takes.
func (d *Dir) attribute(call func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 2 {
		buf := make([]byte, size)
		n, err := retry(func() (int, error) { return call(buf) })
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		return slices.Clip(buf[:max(n, 0)]), err
	}
}

// RemoveEmpty removes a directory of this one, if nothing is in it; unix.ENOTEMPTY says that something is.
func (d *Dir) RemoveEmpty(name string) error {
	if err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); err != nil {
		return d.fail("rmdir", name, err)
	}
	return nil
}

// Same says whether a name in this directory still stands for another one that was opened by it.
func (d *Dir) Same(name string, other *Dir) (bool, error) {
	e, err := d.Entry(name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer e.Close()
	var st unix.Stat_t
	if err := unix.Fstat(other.fd(), &st); err != nil {
		return false, other.fail("stat", "", err)
	}
	return st.Dev == e.Stat.Dev && st.Ino == e.Stat.Ino, nil
}
