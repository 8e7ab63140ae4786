package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
	"coracle/internal/store/engine"
	"coracle/internal/store/engine/faultfs"
)

func remove(t testing.TB, c *store.Collection, name string) {
	t.Helper()
	err := c.Delete(t.Context(), keyOf(name), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if err != nil {
		t.Fatalf("delete %s on a full disk: %v", name, err)
	}
}

// fill creates objects until the disk is full, and returns how many there are.
func fill(t testing.TB, c *store.Collection, prefix string, size int) (n int, full error) {
	t.Helper()
	for ; n < 10_000; n++ {
		if _, err := put(t.Context(), c, fmt.Sprint(prefix, n), strings.Repeat("x", size)); err != nil {
			return n, err
		}
	}
	t.Fatal("the disk does not fill up")
	return 0, nil
}

// ridesOut fills the disk, deletes, and creates again, three times: what was deleted makes room.
func ridesOut(t *testing.T, s *store.Store, dir string) {
	c := collection(t, s, examplePods("/pods"))
	for round := range 3 {
		prefix := fmt.Sprint("r", round, "-")
		n, err := fill(t, c, prefix, 20_000)
		cause, forGood := s.Trouble()
		if cause == nil || forGood {
			t.Fatalf("round %d: trouble %v, for good %v, after %v", round, cause, forGood, err)
		}
		named := strings.Contains(cause.Error(), dir+"log-") || strings.Contains(cause.Error(), dir+"reserve")
		if !errors.Is(err, syscall.ENOSPC) || !named || strings.Contains(cause.Error(), ".tmp") {
			t.Fatalf("round %d: full after %d objects: %v; want ENOSPC, and the file that did not fit named", round, n, cause)
		}
		if strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "its disk is full (no space left on device); delete objects") {
			t.Errorf("round %d: the client is told %v", round, err)
		}
		if n < 20 {
			t.Fatalf("round %d: only %d objects fit", round, n)
		}
		if s.Ready() == nil {
			t.Error("ready though the disk is full")
		}
		for i := range n {
			remove(t, c, fmt.Sprint(prefix, i))
		}
		mustPut(t, c, "after", strings.Repeat("y", 20_000))
		if err := s.Ready(); err != nil {
			t.Errorf("round %d: after room was made: %v", round, err)
		}
		if cause, _ := s.Trouble(); cause != nil {
			t.Errorf("round %d: after room was made: %v", round, cause)
		}
		remove(t, c, "after")
	}
}

// TestWordsForClients: whatever fails, the client hears what it is and what to do, and no file's name.
func TestWordsForClients(t *testing.T) {
	file := "/var/lib/x/store/log-1.wal"
	at := func(err error) error { return fmt.Errorf("write %s: %w", file, err) }
	for _, test := range []struct {
		cause error
		want  string
	}{
		{at(syscall.ENOSPC), "its disk is full (no space left on device); delete objects, or make room"},
		{&os.PathError{Op: "write", Path: file, Err: syscall.ENOSPC}, "its disk is full"},
		{at(syscall.EDQUOT), "its quota of the disk is used up (disk quota exceeded)"},
		{fmt.Errorf("%w: %w", engine.ErrFatal, at(syscall.EIO)), "its disk failed (input/output error); it takes no writes until the server is started again"},
		{fmt.Errorf("%w: %w", engine.ErrFatal, at(syscall.ENOSPC)), "until the server is started again"},
		{at(errors.New("short write")), "the server's log says why"},
		{at(syscall.EROFS), "read-only file system"},
	} {
		err := error(&store.ReadOnlyError{Cause: test.cause})
		status := apierrors.APIStatus(nil)
		if !errors.As(err, &status) || status.Status().Message != err.Error() {
			t.Fatalf("%v is no status", err)
		}
		if words := err.Error(); !strings.Contains(words, test.want) || strings.Contains(words, "/var") || strings.Contains(words, ".wal") {
			t.Errorf("%v: %q, want %q and no file", test.cause, words, test.want)
		}
	}
}

func TestFullDiskIsFreedByDeleting(t *testing.T) {
	fs := faultfs.New()
	s := openOn(t, fs)
	fs.SetCapacity(6 << 20)
	ridesOut(t, s, "store/")
	if used := fs.Used(); used > 6<<20 {
		t.Errorf("%d bytes are used", used)
	}
}

// TestFullDiskKeepsHeartbeats writes the same few objects over and over beside live data that fill the disk: what they
// supersede is room enough.
func TestFullDiskKeepsHeartbeats(t *testing.T) {
	fs := faultfs.New()
	s := openOn(t, fs)
	fs.SetCapacity(4 << 20)
	c := collection(t, s, examplePods("/pods"))
	n, _ := fill(t, c, "live", 20_000)
	for i := range 10 { // leave a little room, less than what is written below
		remove(t, c, fmt.Sprint("live", n-1-i))
	}
	for i := range 2_000 {
		mustPut(t, c, fmt.Sprint("lease", i%4), fmt.Sprint(i, strings.Repeat("z", 1_000)))
	}
}

// TestFullTmpfs fills a real file system of 12 MB.
func TestFullTmpfs(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=12m"); err != nil {
		t.Skipf("mounting a small tmpfs takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := store.Open(store.Config{Dir: filepath.Join(dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	ridesOut(t, s, filepath.Join(dir, "store")+"/")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestCompactionIsWorthwhile: a store that is written little is compacted all the same, once its history is old.
func TestCompactionIsWorthwhile(t *testing.T) {
	const mib, hour = int64(1 << 20), int64(3600)
	for _, c := range []struct {
		name                            string
		live, dead, retryAt, since, age int64
		want                            bool
	}{
		{"nothing dead", 500 * mib, 0, 0, hour, 300, false},
		{"as many dead as live, and much", 10 * mib, 43 * mib, 0, 1, 300, true},
		{"many dead, more alive", 100 * mib, 60 * mib, 0, hour, 300, false},
		{"little dead in a small store, at once", 0, 12 * mib, 0, 299, 300, false},
		{"little dead in a small store, later", 0, 12 * mib, 0, 300, 300, true},
		{"hardly anything dead", 0, mib / 2, 0, hour, 300, false},
		{"after a failure", 0, 40 * mib, 60 * mib, hour, 300, false},
	} {
		if got := store.Worthwhile(c.live, c.dead, c.retryAt, c.since, c.age); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
