package fdstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// alive says whether a store listens.
func alive(dir string) bool {
	conn, err := dial(filepath.Join(dir, Socket))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func fifo(t *testing.T, dir, name string) (r, w *os.File) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	w, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

// TestSocketIsPrivate: whatever the umask, nobody else reaches the socket.
func TestSocketIsPrivate(t *testing.T) {
	dir := t.TempDir()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	info, err := os.Stat(filepath.Join(dir, Socket))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	path := filepath.Join(dir, "other.sock")
	lis, err := Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("without a umask: mode %v, %v", info.Mode(), err)
	}
}

func TestContentOutlivesItsWriterAndReader(t *testing.T) {
	dir := t.TempDir()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, w := fifo(t, dir, "a")
	if err := k.Keep("ctr/stdout", r); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "last words")
	if err := errors.Join(w.Close(), r.Close(), k.Close()); err != nil { // all are dead
		t.Fatal(err)
	}
	k, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	again, err := os.OpenFile(filepath.Join(dir, "a"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(again)
	if err != nil || string(raw) != "last words" {
		t.Errorf("read %q %v", raw, err)
	}
	again.Close()
	if err := k.Drop("ctr"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Get("ctr/stdout"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dropped, but: %v", err)
	}
}

func TestGetGivesTheSameFileBack(t *testing.T) {
	dir := t.TempDir()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for i := range 40 { // more than the store has room for at first
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(k.Keep(fmt.Sprintf("%d/tty", i), f), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{0, 39, 17} {
		f, err := k.Get(fmt.Sprintf("%d/tty", i))
		if err != nil {
			t.Fatal(err)
		}
		to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil || filepath.Base(to) != fmt.Sprint(i) {
			t.Errorf("%d: got %s %v", i, to, err)
		}
		f.Close()
	}
	if err := k.Drop(""); err != nil {
		t.Fatal(err)
	}
}

func TestItEndsWithNothingToKeep(t *testing.T) {
	dir := t.TempDir()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Get("x"); !errors.Is(err, os.ErrNotExist) { // it is up
		t.Fatal(err)
	}
	k.Close()
	deadline := time.Now().Add(10 * time.Second)
	for alive(dir) && time.Now().Before(deadline) {
		if _, err := unix.Poll(nil, 5); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
	if alive(dir) {
		t.Error("it is still there")
	}
}

func TestAKilledStoreIsReplaced(t *testing.T) {
	dir := t.TempDir()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := k.Get("x"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	pid := storePID(t)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if err = k.Keep("f", f); err == nil {
			if got, gerr := k.Get("f"); gerr == nil {
				got.Close()
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no store again: %v", err)
		}
	}
	if err := k.Drop(""); err != nil {
		t.Error(err)
	}
}

// storePID finds our child by its name.
func storePID(t *testing.T) int {
	t.Helper()
	var raw []byte
	all, _ := filepath.Glob("/proc/self/task/*/children")
	for _, p := range all {
		more, _ := os.ReadFile(p)
		raw = append(append(raw, ' '), more...)
	}
	for _, f := range strings.Fields(string(raw)) {
		comm, _ := os.ReadFile("/proc/" + f + "/comm")
		stat, _ := os.ReadFile("/proc/" + f + "/stat")
		if strings.TrimSpace(string(comm)) == "coracle-fdstore" && !strings.Contains(string(stat), ") Z ") {
			var pid int
			fmt.Sscan(f, &pid)
			return pid
		}
	}
	t.Fatal("no store found")
	return 0
}
