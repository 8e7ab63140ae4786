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

// write makes dir show exactly these files and says whether anything changed. Group, when not
// nil, may read them.
func write(dir string, files map[string]file, group *int64, now time.Time) (changed bool, err error) {
	if err := makeDir(dir, 0o755|os.ModePerm&0o777); err != nil {
		return false, err
	}
	present, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if present != "" && same(filepath.Join(dir, present), files) {
		return false, nil
	}
	fresh, err := os.MkdirTemp(dir, now.UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return false, err
	}
	if err := fill(fresh, files, group); err != nil {
		return false, errors.Join(err, filetree.Remove(fresh))
	}
	tmp := filepath.Join(dir, dataNew)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return false, err
	}
	return true, tidy(dir, filepath.Base(fresh), files)
}

func fill(dir string, files map[string]file, group *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, f.mode.Perm()); err != nil {
			return err
		}
		if err := os.Chmod(path, f.mode); err != nil { // whatever the umask
			return err
		}
		if f.uid >= 0 {
			if err := os.Chown(path, f.uid, -1); err != nil {
				return err
			}
		}
	}
	if group == nil {
		return nil
	}
	return setGroup(dir, *group, ownership{recursive: true})
}

// tidy makes the visible links of this set of files and removes those, and the directories, of
// earlier ones.
func tidy(dir, present string, files map[string]file) error {
	visible := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		visible[top] = true
	}
	for _, name := range sortedNames(visible) {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if name == dataLink || name == present || visible[name] {
			continue
		}
		if err := filetree.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// same says whether a directory holds exactly these files.
func same(dir string, files map[string]file) bool {
	left := len(files)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[name]
		if !ok {
			return fs.ErrExist
		}
		have, err := os.ReadFile(path)
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
