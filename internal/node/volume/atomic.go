package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"coracle/internal/filetree"
)

// file is one file of a volume that shows API objects.
type file struct {
	data []byte
	mode os.FileMode
	uid  int // -1 leaves the owner
}

// The layout that lets a whole volume change at one instant: files live in a dated directory,
// ..data points at the present one, and each visible name is a link through ..data. Swapping
// ..data by rename swaps everything.
const (
	dataLink = "..data"
	dataNew  = "..data_tmp"
)

// write makes the directory at path show exactly these files and says whether anything changed. Group, when not nil,
// may read them. Containers see such a volume read-only; should one find a way to write there all the same, no step
// here leaves the directory, for each is taken from a descriptor.
func write(path string, files map[string]file, group *int64, now time.Time) (changed bool, err error) {
	dir, err := filetree.MakeDir(path, 0o777)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	present, err := shown(dir)
	if err != nil {
		return false, err
	}
	if present != "" && same(dir, present, files) {
		return false, nil
	}
	fresh, name, err := freshDir(dir, now)
	if err != nil {
		return false, err
	}
	defer fresh.Close()
	if err := fill(fresh, files, group); err != nil {
		return false, errors.Join(err, dir.Remove(name))
	}
	if err := dir.Remove(dataNew); err != nil {
		return false, err
	}
	if err := dir.Symlink(name, dataNew); err != nil {
		return false, err
	}
	if err := dir.Rename(dataNew, dataLink); err != nil {
		return false, err
	}
	return true, tidy(dir, name, files)
}

// shown is the name of the directory that ..data leads to; empty when it leads to none.
func shown(dir *filetree.Dir) (string, error) {
	e, err := dir.Entry(dataLink)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer e.Close()
	if !e.IsLink() {
		return "", dir.Remove(dataLink)
	}
	return e.Readlink()
}

// freshDir makes a dated directory.
func freshDir(dir *filetree.Dir, now time.Time) (*filetree.Dir, string, error) {
	stem := now.UTC().Format("..2006_01_02_15_04_05.")
	for n := now.Nanosecond(); ; n++ {
		name := fmt.Sprintf("%s%09d", stem, n)
		fresh, err := dir.MakeNew(name, 0o755)
		if !errors.Is(err, fs.ErrExist) {
			return fresh, name, err
		}
	}
}

func fill(dir *filetree.Dir, files map[string]file, group *int64) error {
	for name, f := range files {
		if err := put(dir, strings.Split(name, "/"), f); err != nil {
			return err
		}
	}
	if group == nil {
		return nil
	}
	return dir.Survey(ownership{}.visit(*group))
}

// put writes one file and the directories on the way to it.
func put(dir *filetree.Dir, steps []string, f file) error {
	if len(steps) == 1 {
		return dir.Write(steps[0], f.data, uint32(f.mode.Perm()), f.uid)
	}
	below, err := dir.Make(steps[0], 0o755)
	if err != nil {
		return err
	}
	defer below.Close()
	return put(below, steps[1:], f)
}

// tidy makes the visible links of this set of files and removes those, and the directories, of
// earlier ones.
func tidy(dir *filetree.Dir, present string, files map[string]file) error {
	visible := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		visible[top] = true
	}
	for _, name := range sortedNames(visible) {
		if err := show(dir, name); err != nil {
			return err
		}
	}
	names, err := dir.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == dataLink || name == present || visible[name] {
			continue
		}
		if err := dir.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// show makes the visible link of one name; what else lies in its place goes.
func show(dir *filetree.Dir, name string) error {
	to := filepath.Join(dataLink, name)
	err := dir.Symlink(to, name)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	e, err := dir.Entry(name)
	if err != nil {
		return err
	}
	defer e.Close()
	if e.IsLink() {
		if have, err := e.Readlink(); err != nil || have == to {
			return err
		}
	}
	if err := dir.Remove(name); err != nil {
		return err
	}
	return dir.Symlink(to, name)
}

// same says whether a directory in dir holds exactly these files.
func same(dir *filetree.Dir, present string, files map[string]file) bool {
	in, err := dir.Dir(present)
	if err != nil {
		return false
	}
	defer in.Close()
	left := len(files)
	err = in.Survey(func(e *filetree.Entry) error {
		if e.IsDir() {
			return nil
		}
		want, ok := files[e.Path]
		if !ok {
			return fs.ErrExist
		}
		have, err := e.Read(int64(len(want.data)) + 1)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want.data) {
			return fs.ErrInvalid
		}
		left--
		return nil
	})
	return err == nil && left == 0
}

func sortedNames(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for name := range set {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}

// checkPath refuses a file name that would lead out of the volume or hide its layout.
func checkPath(name string) error {
	if name == "" || filepath.IsAbs(name) || strings.HasPrefix(name, "..") || strings.Contains("/"+name+"/", "/../") {
		return fmt.Errorf("invalid path %q: must be relative and must not start with or contain \"..\"", name)
	}
	return nil
}
