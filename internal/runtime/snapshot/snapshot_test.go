package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
	"coracle/internal/filetree/scratch"
)

func layers(t *testing.T, n int) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	var list []string
	for i := range n {
		dir := filepath.Join(t.TempDir(), "a-directory-name-long-enough-that-many-of-them-do-not-fit-into-a-page-of-mount-options")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("layer"), 0o644); err != nil {
			t.Fatal(err)
		}
		list = append(list, dir)
	}
	return list
}

func TestMount(t *testing.T) {
	for _, n := range []int{0, 1, 60} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir, lower := scratch.Dir(t), layers(t, n)
			if n > 0 {
				if err := unix.Chmod(lower[0], 0o1711); err != nil {
					t.Fatal(err)
				}
			}
			root, err := Mount(dir, lower)
			if err != nil {
				t.Fatal(err)
			}
			defer Unmount(dir)
			if entries, err := os.ReadDir(root); err != nil || len(entries) != n {
				t.Errorf("%d entries %v", len(entries), err)
			}
			var st unix.Stat_t
			if err := unix.Stat(root, &st); err != nil || n > 0 && st.Mode&0o7777 != 0o1711 {
				t.Errorf("mode of the root %o %v", st.Mode, err)
			}
			if err := os.WriteFile(filepath.Join(root, "written"), make([]byte, 5000), 0o644); err != nil {
				t.Fatal(err)
			}
			if bytes, inodes := Usage(dir); bytes < 5000 || inodes != 2 {
				t.Errorf("usage %d bytes, %d inodes", bytes, inodes)
			}
			for range 2 {
				if err := Unmount(dir); err != nil {
					t.Error(err)
				}
			}
			if n > 0 {
				if _, err := os.Stat(filepath.Join(lower[0], "written")); err == nil {
					t.Error("the image was written to")
				}
			}
			// What was written is there at the next mount.
			if root, err = Mount(dir, lower); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(root, "written")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCopy(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("owners need root")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(from, "d"), 0o750))
	must(os.WriteFile(filepath.Join(from, "d/f"), []byte("x"), 0o640))
	must(os.Chown(filepath.Join(from, "d/f"), 5, 6))
	must(os.Symlink("/etc/passwd", filepath.Join(from, "d/l")))
	must(unix.Mkfifo(filepath.Join(from, "pipe"), 0o600))
	must(os.Chmod(from, 0o711))
	source, err := filetree.At(from)
	must(err)
	defer source.Close()
	target, err := filetree.OpenDir(to)
	must(err)
	defer target.Close()
	must(Copy(source, target))
	var st unix.Stat_t
	must(unix.Stat(filepath.Join(to, "d/f"), &st))
	if st.Mode&0o7777 != 0o640 || st.Uid != 5 || st.Gid != 6 {
		t.Errorf("file: %o %d:%d", st.Mode, st.Uid, st.Gid)
	}
	if l, err := os.Readlink(filepath.Join(to, "d/l")); err != nil || l != "/etc/passwd" {
		t.Errorf("link: %q %v", l, err)
	}
	must(unix.Stat(to, &st))
	if st.Mode&0o7777 != 0o711 {
		t.Errorf("directory: %o", st.Mode)
	}
	if _, err := os.Lstat(filepath.Join(to, "pipe")); err == nil {
		t.Error("a pipe was copied")
	}
}

// TestMountAnyName: a container's directory and its layers may be called what means something to overlayfs.
func TestMountAnyName(t *testing.T) {
	for _, name := range []string{"a:b", "a,b", `a\b`, `a\:b\,c=d`, "a b", strings.Repeat("l", 250)} {
		t.Run(fmt.Sprintf("%.10q", name), func(t *testing.T) {
			dir := filepath.Join(scratch.Dir(t), name)
			var lower []string
			for i, l := range layers(t, 2) {
				lower = append(lower, filepath.Join(dir, "layers", fmt.Sprint(i)))
				if err := errors.Join(os.MkdirAll(filepath.Dir(lower[i]), 0o755), os.Rename(l, lower[i])); err != nil {
					t.Fatal(err)
				}
			}
			root, err := Mount(dir, lower)
			if err != nil {
				t.Fatal(err)
			}
			defer Unmount(dir)
			if entries, err := os.ReadDir(root); err != nil || len(entries) != 2 {
				t.Errorf("%d entries %v", len(entries), err)
			}
			if err := os.WriteFile(filepath.Join(root, "written"), nil, 0o644); err != nil {
				t.Error(err)
			}
		})
	}
}
