package filetree

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var scenes = flag.Int("filetree.scenes", 40, "how many random trees TestModel removes")

// names are what programs make of names: all bytes but NUL and / may be in them.
var names = []string{"a", "b", "sp ace", "new\nline", "tab\t", `back\slash`, `\040`, "...", "..x", "x..", ".", "höhle", "no\u00a0break", "a\u2028b",
	"-rf", "*", "[a]", "'", `"`, "\x01\xff\xfe", ".removed-1", "deleted (deleted)", strings.Repeat("long", 63)}

// scene is a tree to be removed, with what lies beside it, what its links lead to and what is mounted in it.
type scene struct {
	r             *rand.Rand
	outside, tree string
	dirs, files   []string          // of the tree, as they can be used for more
	own           map[string]bool   // every path of the tree, relative to it, that is its own and not mounted
	mounts        map[string]string // mount point to what is mounted there: a path of outside, or "" for a file system of its own
	hostFiles     []string
	hostDirs      []string
	covered       bool // something was mounted over what else was mounted at the same place
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func newScene(dir string, seed uint64, size int) *scene {
	s := &scene{
		r: rand.New(rand.NewPCG(seed, 7)), outside: filepath.Join(dir, "out side"), tree: filepath.Join(dir, "tree"),
		own: map[string]bool{".": true}, mounts: map[string]string{},
	}
	must(os.Mkdir(s.outside, 0o755))
	if s.r.IntN(2) == 0 { // what happens in a shared mount happens in its copies, and the other way round
		must(unix.Mount("test", s.outside, "tmpfs", 0, "size=8m"))
		must(unix.Mount("", s.outside, "", unix.MS_SHARED, ""))
	}
	for _, d := range []string{"", "sub", "sub/deep er", "mounted"} {
		path := filepath.Join(s.outside, d)
		must(os.MkdirAll(path, 0o751))
		if d == "mounted" {
			must(unix.Mount("test", path, "tmpfs", 0, "size=1m"))
			must(unix.Mount("", path, "", unix.MS_SHARED, ""))
		}
		must(os.WriteFile(filepath.Join(path, "file"), []byte("precious"), 0o640))
		s.hostDirs = append(s.hostDirs, path)
		s.hostFiles = append(s.hostFiles, filepath.Join(path, "file"))
	}
	must(os.Symlink("..", filepath.Join(s.outside, "sub", "link")))
	must(os.Mkdir(s.tree, 0o755))
	s.dirs = []string{s.tree}
	for range size {
		s.grow()
	}
	for range s.r.IntN(5) {
		s.mount()
	}
	return s
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// grow adds one entry to the tree.
func (s *scene) grow() {
	dir := pick(s.r, s.dirs)
	path := dir + "/" + pick(s.r, names)
	if filepath.Clean(path) != path || len(path) > 2000 {
		return
	}
	if _, err := os.Lstat(path); err == nil {
		return
	}
	switch s.r.IntN(9) {
	case 0, 1, 2:
		must(os.Mkdir(path, 0o755))
		s.dirs = append(s.dirs, path)
	case 3:
		must(os.WriteFile(path, []byte("own"), os.FileMode(pick(s.r, []int{0, 0o444, 0o600, 0o4755}))))
		s.files = append(s.files, path)
	case 4, 5:
		up, err := filepath.Rel(dir, pick(s.r, s.hostDirs))
		must(err)
		to := pick(s.r, []string{pick(s.r, s.hostDirs), pick(s.r, s.hostFiles), up, up + "/file", "nothing there", filepath.Base(path), ".", "..", "/", s.tree})
		must(os.Symlink(to, path))
	case 6:
		// A hard link to the outside: its name goes, the file does not.
		if err := os.Link(pick(s.r, s.hostFiles), path); errors.Is(err, unix.EXDEV) {
			return
		} else {
			must(err)
		}
	case 7:
		must(unix.Mknod(path, pick(s.r, []uint32{unix.S_IFIFO, unix.S_IFSOCK})|0o600, 0))
	case 8:
		must(os.Mkdir(path, 0o755))
		if s.r.IntN(6) == 0 {
			s.nest(path)
		}
	}
	s.own[s.rel(path)] = true
}

func (s *scene) rel(path string) string {
	rel, err := filepath.Rel(s.tree, path)
	must(err)
	return rel
}

// nest makes a deep branch, deeper than descriptors are held.
func (s *scene) nest(path string) {
	for range levelsAtOnce + s.r.IntN(100) {
		path += "/d"
		must(os.Mkdir(path, 0o755))
		s.own[s.rel(path)] = true
	}
}

// mount mounts something in the tree: a directory or a file of the outside, alone or with what is mounted in it, or a
// file system of its own with something in it, in which more may be mounted; also twice at one place.
func (s *scene) mount() {
	kind := s.r.IntN(4)
	at := pick(s.r, s.dirs)
	if !exists(s.hostFiles[1]) || !exists(s.hostFiles[3]) {
		return // the last mount covered a copy of the outside, and so the outside
	}
	if kind == 0 {
		if len(s.files) == 0 {
			return
		}
		at = pick(s.r, s.files)
	}
	if at == s.tree && s.r.IntN(4) > 0 {
		return
	}
	from := ""
	switch kind {
	case 0:
		from = pick(s.r, s.hostFiles)
		must(unix.Mount(from, at, "", unix.MS_BIND, ""))
	case 1:
		from = pick(s.r, s.hostDirs)
		must(unix.Mount(from, at, "", unix.MS_BIND, ""))
	case 2:
		from = pick(s.r, s.hostDirs)
		must(unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, ""))
	case 3:
		must(unix.Mount("test", at, "tmpfs", 0, "size=1m"))
		inner := filepath.Join(at, "in ner")
		must(os.Mkdir(inner, 0o755))
		must(os.WriteFile(filepath.Join(at, "file"), []byte("mounted"), 0o600))
		if from := pick(s.r, s.hostDirs); exists(from) && s.r.IntN(2) == 0 {
			must(unix.Mount(from, inner, "", unix.MS_BIND|unix.MS_REC, ""))
		}
	}
	// What is below the mount point is hidden, and so is what was mounted there or below before.
	hidden := func(path string) bool { _, below := within(path, at); return below }
	if _, again := s.mounts[at]; again {
		s.covered = true
	}
	maps.DeleteFunc(s.mounts, func(path, _ string) bool { return hidden(path) })
	s.mounts[at] = from
	s.dirs = slices.DeleteFunc(s.dirs, func(path string) bool {
		return hidden(path) && path != s.tree && s.r.IntN(8) > 0 || path != at && hidden(path)
	})
	s.files = slices.DeleteFunc(s.files, hidden)
	if len(s.dirs) == 0 {
		s.dirs = []string{s.tree}
	}
}

// visible are the paths of the tree, relative to it, that are its own and are not hidden by a mount, without the mount
// points.
func (s *scene) visible() []string {
	var out []string
	for rel := range s.own {
		path := filepath.Join(s.tree, rel)
		mounted := false
		for at := range s.mounts {
			_, below := within(path, at)
			mounted = mounted || below
		}
		if !mounted {
			out = append(out, rel)
		}
	}
	slices.Sort(out)
	return out
}

// snapshot is everything of a tree that must not change: modes, owners, times, contents, and the file systems.
func snapshot(root string) string {
	var out bytes.Buffer
	must(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		must(err)
		var st unix.Stat_t
		must(unix.Lstat(path, &st))
		fmt.Fprintf(&out, "%q %o %d:%d %d.%d %d %d", path, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Size, st.Dev)
		if d.Type().IsRegular() {
			raw, err := os.ReadFile(path)
			must(err)
			fmt.Fprintf(&out, " %q", raw)
		}
		out.WriteByte('\n')
		return nil
	}))
	return out.String()
}

// mounted is a snapshot of what is mounted in the tree, by mount point.
func (s *scene) mounted() map[string]string {
	out := map[string]string{}
	for at := range s.mounts {
		out[at] = snapshot(at)
	}
	return out
}

// removeScene removes a random tree in the ways that there are, and holds each outcome against what is known of it.
func removeScene(t testing.TB, seed uint64, size int) {
	private(t, func(dir string) {
		s := newScene(dir, seed, size)
		outside := snapshot(s.outside)
		untouched := func(op string) {
			t.Helper()
			if now := snapshot(s.outside); now != outside {
				t.Errorf("seed %d: %s changed what is outside:\n%s\nwas\n%s", seed, op, now, outside)
			}
		}
		s.walk(t, seed)
		untouched("Walk")
		s.stopAtMounts(t, seed)
		untouched("a removal that stopped")
		err := UnmountBelow(s.tree)
		untouched("UnmountBelow")
		if s.covered && errors.As(err, new(*MountError)) {
			return // to unmount what covers a copy of a shared mount would uncover the original
		}
		if err != nil {
			t.Errorf("seed %d: UnmountBelow: %v", seed, err)
		}
		if left, err := MountsBelow(s.tree); err != nil || len(left) > 0 {
			t.Errorf("seed %d: after UnmountBelow: %q, %v", seed, left, err)
		}
		if exists(s.tree) && s.r.IntN(2) == 0 {
			if err := RemoveContents(s.tree); err != nil {
				t.Errorf("seed %d: RemoveContents: %v", seed, err)
			}
			if left, err := os.ReadDir(s.tree); err != nil || len(left) > 0 {
				t.Errorf("seed %d: RemoveContents left %v, %v", seed, left, err)
			}
		}
		if err := Remove(s.tree); err != nil || exists(s.tree) {
			t.Errorf("seed %d: Remove: %v, tree left %v", seed, err, exists(s.tree))
		}
		untouched("Remove")
	})
}

// walk holds Walk against the entries that the tree was made of.
func (s *scene) walk(t testing.TB, seed uint64) {
	if _, covered := s.mounts[s.tree]; covered {
		return // a walk begins in what is mounted at its root
	}
	var seen []string
	if err := Walk(s.tree, func(e *Entry) error { seen = append(seen, e.Path); return nil }); err != nil {
		t.Errorf("seed %d: Walk: %v", seed, err)
	}
	slices.Sort(seen)
	if want := s.visible(); !slices.Equal(seen, want) {
		t.Errorf("seed %d: Walk saw\n%q\nwant\n%q", seed, seen, want)
	}
}

// stopAtMounts: while anything is mounted in the tree its removal fails, names that, and leaves it whole.
func (s *scene) stopAtMounts(t testing.TB, seed uint64) {
	before := s.mounted()
	remove := Remove
	if s.r.IntN(2) == 0 {
		remove = RemoveContents
	}
	err := remove(s.tree)
	var mounted *MountError
	switch {
	case len(s.mounts) == 0 && err != nil:
		t.Errorf("seed %d: nothing is mounted: %v", seed, err)
	case len(s.mounts) > 0 && !errors.As(err, &mounted):
		t.Errorf("seed %d: %v, want a MountError", seed, err)
	case len(s.mounts) > 0:
		if _, ok := s.mounts[mounted.Path]; !ok {
			t.Errorf("seed %d: MountError names %q, mounted are %q", seed, mounted.Path, s.mounts)
		}
	}
	for at, was := range before {
		if now := snapshot(at); now != was {
			t.Errorf("seed %d: what is mounted at %q changed:\n%s\nwas\n%s", seed, at, now, was)
		}
	}
}

func TestModel(t *testing.T) {
	needRoot(t)
	for seed := range uint64(*scenes) {
		removeScene(t, seed, 4+int(seed%5)*12)
	}
}

func FuzzRemove(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(seed, uint8(20*seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, size uint8) { removeScene(t, seed, int(size)) })
}

// FuzzMountinfo: whatever a mount point is called, it is read as it is, and one line does not run into the next.
func FuzzMountinfo(f *testing.F) {
	for _, name := range names {
		f.Add(name, name)
	}
	// What the kernel escapes (seq_path in show_mountinfo).
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
	f.Fuzz(func(t *testing.T, root, point string) {
		line := fmt.Sprintf("36 35 98:0 /%s /%s rw,noatime shared:1 - ext4 /dev/x rw\n", escape.Replace(root), escape.Replace(point))
		table, err := parseMounts([]byte("35 35 98:0 / / rw - ext4 /dev/x rw\n" + line))
		if err != nil || len(table.mounts) != 2 {
			t.Fatalf("%q: %v", line, err)
		}
		want := mount{id: 36, parent: 35, dev: "98:0", root: "/" + root, point: "/" + point, peers: "1"}
		if got := table.mounts[1]; got != want {
			t.Errorf("%q is read as %+v, want %+v", line, got, want)
		}
	})
}
