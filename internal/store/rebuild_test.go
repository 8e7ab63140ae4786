package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
	"coracle/internal/store/engine"
	"coracle/internal/store/engine/faultfs"
	"coracle/internal/store/engine/wal"
)

// watchFrom returns the first event of a watch from a revision.
func watchFrom(t *testing.T, c *store.Collection, rev string) watch.Event {
	t.Helper()
	w, err := c.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: rev, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	select {
	case ev := <-w.ResultChan():
		return ev
	case <-time.After(patience):
		t.Fatalf("a watch from revision %s is silent", rev)
		return watch.Event{}
	}
}

// TestWatchFromTheFuture: a revision this store has never had is answered at once, with what client-go's reflectors
// recover from. A list that insists on it is refused as upstream's.
func TestWatchFromTheFuture(t *testing.T) {
	c := collection(t, openStore(t, store.Config{}), examplePods("/pods"))
	now := mustPut(t, c, "a", "1").ResourceVersion
	if now != "2" {
		t.Fatalf("the first revision is %s", now)
	}
	ev := watchFrom(t, c, "3")
	status, ok := ev.Object.(*metav1.Status)
	if ev.Type != watch.Error || !ok || status.Code != 410 || status.Reason != metav1.StatusReasonExpired || !strings.Contains(status.Message, "3") {
		t.Errorf("watch from revision 3: %v %+v", ev.Type, ev.Object)
	}
	_, _, err := c.Objects(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: "3", Predicate: storage.Everything})
	if !storage.IsTooLargeResourceVersion(err) {
		t.Errorf("list at revision 3: %v", err)
	}
	for _, rev := range []string{"abc", "-1", "18446744073709551616"} {
		_, err := c.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: rev, Predicate: storage.Everything})
		if !apierrors.IsBadRequest(err) {
			t.Errorf("watch from revision %s: %v", rev, err)
		}
	}
}

// copyDir copies a store's files.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// TestEarlierFormat opens stores as version 1 wrote them, without a mark, loses nothing, and refuses their files
// once they are ours.
func TestEarlierFormat(t *testing.T) {
	for name, want := range map[string]map[string]string{
		"plain":     {"p0": "10", "p1": "11", "p2": "7", "p3": "8", "p4": "9"},
		"compacted": {"p0": "late3", "p1": "late4", "p2": "late5", "p3": "8", "p4": "9"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			copyDir(t, filepath.Join("testdata", "format1", name), dir)
			cfg := store.Config{Dir: dir, Mark: dir + ".mark", Begun: true}
			s, err := store.Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Identity = s.Identity()
			c := collection(t, s, examplePods("/pods"))
			if diff := cmp.Diff(want, values(t, c)); diff != "" {
				t.Error(diff)
			}
			rev := s.Revision()
			want["p0"] = "now"
			mustPut(t, c, "p0", "now")
			if err := s.Close(); err != nil { // lets the compaction that the format asks for end or cuts it short
				t.Fatal(err)
			}
			s = openStore(t, cfg)
			if diff := cmp.Diff(want, values(t, collection(t, s, examplePods("/pods")))); diff != "" || s.Revision() != rev+1 {
				t.Errorf("revision %d, want %d: %s", s.Revision(), rev+1, diff)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			copyDir(t, filepath.Join("testdata", "format1", name), dir)
			refusedStore(t, cfg, "an older copy")
		})
	}
}

// TestEarlierFormatDamaged flips every byte of what version 1 wrote: refused, or whole. Its last batch alone cannot be told
// from an unfinished write, because nothing vouched for it.
func TestEarlierFormatDamaged(t *testing.T) {
	from := filepath.Join("testdata", "format1", "plain", "log-00000000000000000001.wal")
	image, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	used := len(strings.TrimRight(string(image), "\x00"))
	lastBatch := strings.LastIndex(string(image), "\xc0\x4a\xc1\xe5")
	for at := range used {
		bad := []byte(string(image))
		bad[at] ^= 0x10
		fs := faultfs.New()
		fs.Write("store/"+filepath.Base(from), bad)
		e, err := wal.Open(wal.Options{Dir: "store", Begun: true, Ahead: 1024, FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Load(func(engine.Record) error { return nil })
		e.Close()
		var damage *engine.DamageError
		if at < lastBatch && !errors.As(err, &damage) {
			t.Fatalf("byte %d flipped: %v", at, err)
		}
	}
}

func refusedStore(t *testing.T, cfg store.Config, word string) {
	t.Helper()
	s, err := store.Open(cfg)
	var damage *engine.DamageError
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), word) {
		t.Errorf("open: %v, want a refusal with %q", err, word)
	}
	if err == nil {
		s.Close()
	}
}

// damaged makes a store of 20 objects and harms it.
func damaged(t *testing.T, harm func(dir, mark, log string)) store.Config {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	cfg := store.Config{Dir: dir, Mark: dir + ".mark", Begun: true}
	var err error
	if cfg.Identity, err = store.Begin(cfg); err == nil {
		t.Error("a store was begun that is said to be there")
	}
	cfg.Begun = false
	if cfg.Identity, err = store.Begin(cfg); err != nil {
		t.Fatal(err)
	}
	again, err := store.Begin(store.Config{Dir: cfg.Dir, Mark: cfg.Mark})
	if err != nil || again != cfg.Identity {
		t.Errorf("begun twice: %q and %q: %v", cfg.Identity, again, err)
	}
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := collection(t, s, examplePods("/pods"))
	for i := range 20 {
		mustPut(t, c, fmt.Sprint("p", i), "v")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Begin(store.Config{Dir: cfg.Dir, Mark: cfg.Mark}); !errors.Is(err, store.ErrHolds) {
		t.Errorf("begun over a store that holds something: %v", err)
	}
	harm(cfg.Dir, cfg.Mark, filepath.Join(cfg.Dir, "log-00000000000000000001.wal"))
	return cfg
}

func flip(t *testing.T, name string, at int) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw[at] ^= 4
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRebuild salvages stores that are refused: what is left is all that was not harmed, under revisions that nobody has
// seen, and clients of before are told to list again.
func TestRebuild(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(dir, mark, log string)
		word string
		left int
	}{
		"header of the log":  {func(_, _, log string) { flip(t, log, 13) }, "header", 20},
		"middle of a batch":  {func(_, _, log string) { flip(t, log, 700) }, "damaged at byte", 19},
		"mark removed":       {func(_, mark, _ string) { os.Remove(mark) }, "the mark is missing", 20},
		"log removed":        {func(_, _, log string) { os.Remove(log) }, "missing", 0},
		"directory removed":  {func(dir, _, _ string) { os.RemoveAll(dir) }, "all files of the store are missing", 0},
		"all of it removed":  {func(dir, mark, _ string) { os.RemoveAll(dir); os.Remove(mark) }, "missing", 0},
		"log cut in its use": {func(_, _, log string) { os.Truncate(log, 1200) }, "had been acknowledged", 5},
	} {
		t.Run(name, func(t *testing.T) {
			old := damaged(t, c.harm)
			refusedStore(t, old, c.word)
			for _, keep := range []bool{true, false} {
				left := c.left
				if !keep {
					left = 0
				}
				rebuilt(t, old, keep, left)
			}
			refusedStore(t, old, c.word) // it was left as it was
		})
	}
}

func rebuilt(t *testing.T, old store.Config, keep bool, left int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "fresh")
	fresh := store.Config{Dir: dir, Mark: dir + ".mark"}
	made, err := store.Rebuild(old, fresh, keep, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if made.Identity == old.Identity || made.Objects != left {
		t.Errorf("%d objects, want %d; identities %s and %s; not read: %v", made.Objects, left, old.Identity, made.Identity, made.Gaps)
	}
	fresh.Identity, fresh.Begun = made.Identity, true
	s := openStore(t, fresh)
	c := collection(t, s, examplePods("/pods"))
	if got := values(t, c); len(got) != left || s.Revision() <= 21 {
		t.Errorf("%d objects at revision %d", len(got), s.Revision())
	}
	if status, ok := watchFrom(t, c, "21").Object.(*metav1.Status); !ok || status.Code != 410 {
		t.Errorf("a watch of before: %+v", status)
	}
	mustPut(t, c, "p3", "again")
}
