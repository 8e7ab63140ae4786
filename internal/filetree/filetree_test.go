package filetree

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that mounts where the user may not.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
}

func make1(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func bind(t *testing.T, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(to, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestRemoveStopsAtAMount(t *testing.T) {
	for _, name := range []string{"plain", "sp ace", "new\nline", `back\slash`} {
		t.Run(strconv.Quote(name), func(t *testing.T) {
			private(t, func(dir string) {
				precious := make1(t, filepath.Join(dir, "host", "file"))
				root := filepath.Join(dir, name)
				at := filepath.Join(root, "pods", "mount")
				if err := os.MkdirAll(at, 0o755); err != nil {
					t.Fatal(err)
				}
				bind(t, filepath.Dir(precious), at)
				err := Remove(root)
				var mounted *MountError
				if !errors.As(err, &mounted) || mounted.Path != at {
					t.Errorf("Remove: %v, want a MountError of %s", err, at)
				}
				if !exists(precious) {
					t.Error("what was mounted is gone")
				}
				if err := UnmountBelow(root); err != nil {
					t.Fatal(err)
				}
				if err := Remove(root); err != nil || exists(root) {
					t.Errorf("Remove without the mount: %v, exists %v", err, exists(root))
				}
				if !exists(precious) {
					t.Error("what had been mounted is gone")
				}
			})
		})
	}
}

func TestRemoveStopsAtAMountedFile(t *testing.T) {
	private(t, func(dir string) {
		precious := make1(t, filepath.Join(dir, "host", "file"))
		at := make1(t, filepath.Join(dir, "tree", "file"))
		bind(t, precious, at)
		var mounted *MountError
		if err := Remove(filepath.Join(dir, "tree")); !errors.As(err, &mounted) {
			t.Errorf("Remove: %v, want a MountError", err)
		}
		if !exists(precious) {
			t.Error("what was mounted is gone")
		}
	})
}

func TestMountsBelowALink(t *testing.T) {
	private(t, func(dir string) {
		at := filepath.Join(dir, "real", "at")
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(dir, "link")
		if err := os.Symlink("real", link); err != nil {
			t.Fatal(err)
		}
		bind(t, t.TempDir(), at)
		bind(t, t.TempDir(), at)
		points, err := MountsBelow(link)
		if err != nil || len(points) != 2 || points[0] != at {
			t.Fatalf("MountsBelow: %v, %v", points, err)
		}
		if err := UnmountBelow(link); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRemoveFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	precious := make1(t, filepath.Join(dir, "host", "file"))
	root := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(root, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	for at, to := range map[string]string{"in/file": precious, "in/dir": filepath.Dir(precious), "up": "..", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(root, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Remove(root); err != nil || exists(root) || !exists(precious) {
		t.Errorf("Remove: %v, tree left %v, file outside left %v", err, exists(root), exists(precious))
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("host", link); err != nil {
		t.Fatal(err)
	}
	if err := Remove(link); err != nil || exists(link) || !exists(precious) {
		t.Errorf("Remove of a link: %v, link left %v, file behind it left %v", err, exists(link), exists(precious))
	}
}

// nest makes directories one in the other, deeper than a path can say.
func nest(t *testing.T, root string, levels int) {
	t.Helper()
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range levels {
		if err := unix.Mkdirat(fd, "deeper", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "deeper", unix.O_PATH|unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
}

func TestDeepTrees(t *testing.T) {
	private(t, func(dir string) {
		root := filepath.Join(dir, "tree")
		nest(t, root, maxLevels+3*levelsAtOnce)
		if err := Walk(root, func(*Entry) error { return nil }); !errors.Is(err, ErrTooDeep) {
			t.Errorf("Walk: %v, want ErrTooDeep", err)
		}
		if err := Remove(root); err != nil || exists(root) {
			t.Errorf("Remove: %v, tree left %v", err, exists(root))
		}
	})
}

func TestWideTree(t *testing.T) {
	private(t, func(dir string) {
		root := filepath.Join(dir, "tree")
		for i := range 3 * namesAtOnce {
			make1(t, filepath.Join(root, strconv.Itoa(i)))
		}
		seen := 0
		if err := Walk(root, func(*Entry) error { seen++; return nil }); err != nil || seen != 3*namesAtOnce+1 {
			t.Errorf("Walk: %v, saw %d", err, seen)
		}
		if err := RemoveContents(root); err != nil || !exists(root) {
			t.Errorf("RemoveContents: %v, root left %v", err, exists(root))
		}
		if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

func TestRemoveOfNothing(t *testing.T) {
	if err := Remove(filepath.Join(t.TempDir(), "a", "b")); err != nil {
		t.Error(err)
	}
}

// TestStepByMountID holds the way of older kernels to the same answers.
func TestStepByMountID(t *testing.T) {
	private(t, func(dir string) {
		at := filepath.Join(dir, "at")
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		make1(t, filepath.Join(dir, "file"))
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		got, err := stepByMountID(fd, "file", unix.O_PATH)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(got)
		bind(t, t.TempDir(), at)
		if _, err := stepByMountID(fd, "at", unix.O_PATH); !errors.Is(err, unix.EXDEV) {
			t.Errorf("a mount point: %v, want EXDEV", err)
		}
	})
}

// TestMountsSeenByAnotherPath: a file system is mounted at two places, and what is mounted in it at one of them only.
// By the other path it cannot be seen, and is found all the same.
func TestMountsSeenByAnotherPath(t *testing.T) {
	private(t, func(dir string) {
		twin, at := filepath.Join(dir, "twin"), filepath.Join(dir, "one", "tree", "a b")
		for _, path := range []string{twin, at, filepath.Join(dir, "one", "beside")} {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		bind(t, filepath.Join(dir, "one"), twin)
		bind(t, t.TempDir(), at)
		bind(t, t.TempDir(), filepath.Join(dir, "one", "beside"))
		other := filepath.Join(twin, "tree")
		if points, err := MountsBelow(other); err != nil || len(points) != 1 || points[0] != at {
			t.Errorf("MountsBelow: %q, %v, want %q", points, err, at)
		}
		var mounted *MountError
		if err := Remove(other); !errors.As(err, &mounted) || mounted.Path != at {
			t.Errorf("Remove: %v, want a MountError of %s", err, at)
		}
		if err := Dismantle(other); err != nil || exists(other) {
			t.Errorf("Dismantle: %v, tree left %v", err, exists(other))
		}
		if points, err := MountsBelow(filepath.Join(dir, "one")); err != nil || len(points) != 1 {
			t.Errorf("mounted beside the tree: %q, %v, want one", points, err)
		}
	})
}

// TestOpenPlain: both ways to find a directory cross mounts and follow no link.
func TestOpenPlain(t *testing.T) {
	private(t, func(dir string) {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a", "b c"), 0o755), os.Symlink("a", filepath.Join(dir, "link"))); err != nil {
			t.Fatal(err)
		}
		bind(t, t.TempDir(), filepath.Join(dir, "a", "b c"))
		for name, open := range map[string]func(string) (int, error){"openat2": openPlain, "by name": openPlainByName} {
			for path, want := range map[string]error{"/": nil, dir + "/a/b c": nil, dir + "/link": unix.ENOTDIR, dir + "/link/b c": unix.ENOTDIR, dir + "/none": unix.ENOENT} {
				fd, err := open(path)
				if !errors.Is(err, want) && !(errors.Is(want, unix.ENOTDIR) && errors.Is(err, unix.ELOOP)) {
					t.Errorf("%s of %s: %v, want %v", name, path, err, want)
				}
				if err == nil {
					unix.Close(fd)
				}
			}
		}
	})
}

func TestWalkChangesTheFileItSaw(t *testing.T) {
	dir := t.TempDir()
	outside := make1(t, filepath.Join(dir, "host", "secret"))
	root := filepath.Join(dir, "tree")
	inside := make1(t, filepath.Join(root, "file"))
	err := Walk(root, func(e *Entry) error {
		if e.IsDir() {
			return nil
		}
		// What a pod does in the instant between the look and the change.
		if err := os.Rename(inside, inside+".old"); err != nil {
			return err
		}
		if err := os.Symlink(outside, inside); err != nil {
			return err
		}
		return e.Chmod(0o777)
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	info, err := os.Stat(outside)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file outside: %v, %v", info.Mode(), err)
	}
	info, err = os.Lstat(inside + ".old")
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("the file inside: %v, %v", info.Mode(), err)
	}
}
