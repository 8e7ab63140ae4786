package filetree

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// attack exchanges entries of a directory with one another, over and over, until the returned function is called. It
// holds the directory by a descriptor, as a pod does that has it mounted.
func attack(t testing.TB, dir string, pairs ...[2]string) (stop func()) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			for _, p := range pairs {
				_ = unix.Renameat2(fd, p[0], fd, p[1], unix.RENAME_EXCHANGE) // one of them may be gone
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	return func() {
		close(done)
		swapping.Wait()
		unix.Close(fd)
	}
}

// TestRemoveUnderAttack: while directories of the tree become links to the outside and again directories, nothing of
// the outside is removed.
func TestRemoveUnderAttack(t *testing.T) {
	private(t, func(dir string) {
		outside, tree := filepath.Join(dir, "outside"), filepath.Join(dir, "tree")
		for _, path := range []string{"file", "0/file", "1/2/file"} {
			make1(t, filepath.Join(outside, path))
		}
		before := snapshot(outside)
		for range 60 {
			var pairs [][2]string
			for i := range 8 {
				name := strconv.Itoa(i)
				make1(t, filepath.Join(tree, name, "0", "file"))
				make1(t, filepath.Join(tree, name, "1", "2", "file"))
				link := "link" + name
				if err := os.Symlink(outside, filepath.Join(tree, link)); err != nil {
					t.Fatal(err)
				}
				pairs = append(pairs, [2]string{name, link}, [2]string{name + "/1", link})
			}
			stop := attack(t, tree, pairs...)
			err := Remove(tree)
			stop()
			if err != nil {
				// What was exchanged may have been missed in each reading; it must not be taken for a mount.
				if errors.As(err, new(*MountError)) {
					t.Fatal(err)
				}
				if err := Remove(tree); err != nil {
					t.Fatal(err)
				}
			}
			if now := snapshot(outside); now != before {
				t.Fatalf("what is outside changed:\n%s\nwas\n%s", now, before)
			}
		}
	})
}

// TestUnmountUnderAttack: while the directory that holds a mount point becomes a link to one of the outside that holds
// another of that name, nothing of the outside is unmounted.
func TestUnmountUnderAttack(t *testing.T) {
	private(t, func(dir string) {
		outside, tree := filepath.Join(dir, "outside"), filepath.Join(dir, "tree")
		mountIn := func(at string) {
			t.Helper()
			if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount("test", at, "tmpfs", 0, "size=1m")); err != nil {
				t.Fatal(err)
			}
		}
		mountIn(filepath.Join(outside, "at"))
		make1(t, filepath.Join(outside, "at", "file"))
		before := snapshot(outside)
		if err := os.MkdirAll(filepath.Join(tree, "dir"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(tree, "link")); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			mountIn(filepath.Join(tree, "dir", "at"))
			stop := attack(t, tree, [2]string{"dir", "link"})
			err := UnmountBelow(tree)
			stop()
			if now := snapshot(outside); now != before {
				t.Fatalf("what is outside changed:\n%s\nwas\n%s", now, before)
			}
			if err != nil && !errors.As(err, new(*MountError)) {
				t.Fatal(err)
			}
			if err := UnmountBelow(tree); err != nil { // now that nobody interferes
				t.Fatal(err)
			}
			if info, err := os.Lstat(filepath.Join(tree, "dir")); err == nil && info.Mode()&os.ModeSymlink != 0 {
				if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(tree, "dir"), unix.AT_FDCWD, filepath.Join(tree, "link"),
					unix.RENAME_EXCHANGE); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
