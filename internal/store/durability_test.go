package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
	"coracle/internal/store/engine"
	"coracle/internal/store/engine/faultfs"
	"coracle/internal/store/engine/wal"
)

const patience = 30 * time.Second

func pod(name string) *example.Pod {
	return &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func keyOf(name string) string { return "/pods/ns/" + name }

func put(ctx context.Context, c *store.Collection, name, value string) (*example.Pod, error) {
	out := &example.Pod{}
	err := c.GuaranteedUpdate(ctx, keyOf(name), out, true, nil, storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
		p := in.(*example.Pod)
		p.Namespace, p.Name = "ns", name
		p.Annotations = map[string]string{"value": value}
		return p, nil
	}), nil)
	return out, err
}

func mustPut(t testing.TB, c *store.Collection, name, value string) *example.Pod {
	t.Helper()
	out, err := put(t.Context(), c, name, value)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// values returns what is stored: name to value.
func values(t testing.TB, c *store.Collection) map[string]string {
	t.Helper()
	objs, _, err := c.Objects(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, obj := range objs {
		out[obj.(*example.Pod).Name] = obj.(*example.Pod).Annotations["value"]
	}
	return out
}

func within(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatal("waited in vain until ", what)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// gate is an engine whose commits wait to be let through, or failed.
type gate struct {
	engine.Engine
	arrived chan []engine.Record
	verdict chan error
}

func newGate() *gate {
	return &gate{arrived: make(chan []engine.Record, 100), verdict: make(chan error, 100)}
}

func (g *gate) Load(func(engine.Record) error) (engine.Loaded, error) { return engine.Loaded{}, nil }
func (g *gate) Size() (int64, int64)                                  { return 0, 0 }
func (g *gate) Reserve(int64) error                                   { return nil }
func (g *gate) Close() error                                          { return nil }
func (g *gate) Commit(batch []engine.Record) error {
	g.arrived <- append([]engine.Record(nil), batch...)
	return <-g.verdict
}

type answer struct {
	pod *example.Pod
	err error
}

func async(c *store.Collection, name, value string) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		p, err := put(context.Background(), c, name, value)
		out <- answer{p, err}
	}()
	return out
}

func nothing[T any](t testing.TB, what string, c <-chan T) {
	t.Helper()
	select {
	case got := <-c:
		t.Fatalf("%s: %v", what, got)
	default:
	}
}

// TestNothingSeenBeforeDurable holds a commit and looks from all sides.
func TestNothingSeenBeforeDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		s := openStore(t, store.Config{Engine: g})
		c := collection(t, s, examplePods("/pods"))
		w, err := c.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: "1", Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		first := async(c, "a", "1")
		<-g.arrived
		blocked := make(chan error, 2)
		go func() { blocked <- c.Create(context.Background(), keyOf("a"), pod("a"), nil, 0) }()
		synctest.Wait()
		second := async(c, "a", "2") // builds on the first while that is not durable
		synctest.Wait()
		same := async(c, "a", "2") // changes nothing of what is not durable
		synctest.Wait()            // everybody has gone as far as they can

		if err := c.Get(t.Context(), keyOf("a"), storage.GetOptions{}, &example.Pod{}); !storage.IsNotFound(err) {
			t.Errorf("get sees what is not durable: %v", err)
		}
		if got := values(t, c); len(got) != 0 {
			t.Errorf("list sees what is not durable: %v", got)
		}
		if s.Revision() != 1 {
			t.Errorf("revision %d", s.Revision())
		}
		nothing(t, "acknowledged before durable", first)
		nothing(t, "watch event before durable", w.ResultChan())
		nothing(t, "refused for what is not durable", blocked)

		g.verdict <- nil
		synctest.Wait()
		if got := <-first; got.err != nil || got.pod.Annotations["value"] != "1" {
			t.Errorf("first write: %+v", got)
		}
		if err := <-blocked; !storage.IsExist(err) {
			t.Errorf("create of what exists: %v", err)
		}
		batch := <-g.arrived
		if len(batch) != 1 || batch[0].Revision != 3 {
			t.Errorf("second commit: %v", batch)
		}
		if got := values(t, c); got["a"] != "1" {
			t.Errorf("between the commits: %v", got)
		}
		if !store.NewestDurable(s, keyOf("a"), 2) || store.NewestDurable(s, keyOf("a"), 3) {
			t.Error("compaction would drop the durable state for one that is not durable")
		}
		nothing(t, "acknowledged before durable", second)
		nothing(t, "found unchanged before durable", same)
		g.verdict <- nil
		for _, ch := range []<-chan answer{second, same} {
			if got := <-ch; got.err != nil || got.pod.ResourceVersion != "3" {
				t.Errorf("second write: %+v", got)
			}
		}
		for i, want := range []watch.EventType{watch.Added, watch.Modified} {
			if ev := <-w.ResultChan(); ev.Type != want {
				t.Errorf("event %d: %v", i, ev)
			}
		}
	})
}

// TestNothingQueuedWhileUndoing holds the undoing of a failed write and writes elsewhere.
func TestNothingQueuedWhileUndoing(t *testing.T) {
	g := newGate()
	s := openStore(t, store.Config{Engine: g})
	a, b := collection(t, s, examplePods("/pods")), collection(t, s, examplePods("/other"))
	first := async(a, "a", "1")
	<-g.arrived
	release := store.Hold(a)
	g.verdict <- syscall.ENOSPC
	within(t, "the failed write is being undone", func() bool { return store.Failing(s) })
	err := b.Create(t.Context(), "/other/ns/b", pod("b"), nil, 0)
	var ro *store.ReadOnlyError
	if !errors.As(err, &ro) {
		t.Errorf("write while another is undone: %v", err)
	}
	release()
	if got := <-first; !errors.Is(got.err, syscall.ENOSPC) {
		t.Errorf("the failed write: %v", got.err)
	}
}

// TestWatchBeginsWhereItsListEnds begins a watch while changes that its initial events tell of are
// still on their way to the watches.
func TestWatchBeginsWhereItsListEnds(t *testing.T) {
	s := openStore(t, store.Config{})
	a, b := collection(t, s, examplePods("/other")), collection(t, s, examplePods("/pods"))
	release := store.HoldWatches(a)
	if err := a.Create(t.Context(), "/other/ns/x", pod("x"), nil, 0); err != nil {
		t.Fatal(err)
	}
	mustPut(t, b, "p", "1") // durable, but stuck behind the other
	w, err := b.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	release()
	mustPut(t, b, "p", "2")
	for i, want := range []watch.EventType{watch.Added, watch.Modified} {
		ev := <-w.ResultChan()
		if got := ev.Object.(runtime.CacheableObject).GetObject().(*example.Pod).Annotations["value"]; ev.Type != want || got != fmt.Sprint(i+1) {
			t.Errorf("event %d: %s of value %s", i, ev.Type, got)
		}
	}
}

// TestFailedLogUndoesAll fails a commit on which other writes were built.
func TestFailedLogUndoesAll(t *testing.T) {
	g := newGate()
	s := openStore(t, store.Config{Engine: g})
	c := collection(t, s, examplePods("/pods"))
	g.verdict <- nil
	mustPut(t, c, "a", "kept")
	<-g.arrived

	first := async(c, "a", "1")
	<-g.arrived
	built := []<-chan answer{async(c, "a", "2"), async(c, "b", "2")}
	exists := make(chan error, 1)
	go func() {
		exists <- c.Delete(context.Background(), keyOf("a"), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	}()
	// Wait until all are queued behind the first: a commit of nothing else can tell.
	within(t, "the writes are queued", func() bool { return store.Queued(s) == 3 })
	g.verdict <- syscall.ENOSPC
	for _, ch := range append(built, first) {
		got := <-ch
		var ro *store.ReadOnlyError
		if !errors.As(got.err, &ro) || !errors.Is(got.err, syscall.ENOSPC) || !apierrors.IsServiceUnavailable(got.err) {
			t.Errorf("write on a full disk: %v", got.err)
		}
	}
	if err := <-exists; !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("delete on a full disk: %v", err)
	}
	if got := values(t, c); !cmp.Equal(got, map[string]string{"a": "kept"}) {
		t.Errorf("after the failure: %v", got)
	}
	if err := s.Ready(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "cannot write") {
		t.Errorf("readiness: %v", err)
	}
	g.verdict <- nil
	again := mustPut(t, c, "a", "3")
	if err := s.Ready(); err != nil {
		t.Errorf("readiness after room was made: %v", err)
	}
	if again.ResourceVersion == "3" || again.Annotations["value"] != "3" {
		t.Errorf("write after the failure: %v (a refused revision must not come back)", again)
	}
}

// TestWritersRideOutAFullDisk writes from many goroutines while the disk fills up and is emptied.
func TestWritersRideOutAFullDisk(t *testing.T) {
	fs := faultfs.New()
	s := openOn(t, fs)
	c := collection(t, s, examplePods("/pods"))
	acked := sync.Map{}
	var refused atomic.Bool
	var group sync.WaitGroup
	fs.SetCapacity(fs.Used() + 200<<10)
	big := strings.Repeat("x", 4000)
	for i := range 16 {
		group.Go(func() {
			for n := range 40 {
				// Objects of their own: a compaction cannot make room for them.
				name, value := fmt.Sprint("w", i, "-", n), fmt.Sprint(n, big)
				if _, err := put(context.Background(), c, name, value); err == nil {
					acked.Store(name, value)
				} else if errors.Is(err, syscall.ENOSPC) {
					refused.Store(true)
				} else {
					var ro *store.ReadOnlyError
					if !errors.As(err, &ro) {
						t.Error(err)
					}
				}
				// Room is made only once the disk was full, however far one writer runs ahead.
				if n >= 30 && refused.Load() {
					fs.SetCapacity(0)
				}
			}
		})
	}
	group.Wait()
	want := map[string]string{}
	acked.Range(func(k, v any) bool { want[k.(string)] = v.(string); return true })
	if diff := cmp.Diff(want, values(t, c)); diff != "" {
		t.Error("in memory:", diff)
	}
	if !refused.Load() {
		t.Error("the disk was never full")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fs.Crash(rand.New(rand.NewPCG(3, 4)))
	again := openOn(t, fs)
	if diff := cmp.Diff(want, values(t, collection(t, again, examplePods("/pods")))); diff != "" {
		t.Error("after a restart:", diff)
	}
}

func openOn(t testing.TB, fs wal.FS) *store.Store {
	t.Helper()
	e, err := wal.Open(wal.Options{Dir: "store", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return openStore(t, store.Config{Engine: e})
}

func TestFailedSyncIsForGood(t *testing.T) {
	fs := faultfs.New()
	s := openOn(t, fs)
	c := collection(t, s, examplePods("/pods"))
	mustPut(t, c, "a", "1")
	fs.Fail(func(op, _ string) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	})
	for range 2 {
		if _, err := put(t.Context(), c, "a", "2"); !errors.Is(err, syscall.EIO) || !errors.Is(err, engine.ErrFatal) {
			t.Errorf("write after a failed sync: %v", err)
		}
		fs.Fail(nil)
	}
	if err := s.Ready(); !errors.Is(err, engine.ErrFatal) {
		t.Errorf("readiness: %v", err)
	}
	if got := values(t, c); got["a"] != "1" {
		t.Errorf("reads go on with what is durable: %v", got)
	}
}

func TestDamagedDirectoryIsRefused(t *testing.T) {
	fs := faultfs.New()
	s := openOn(t, fs)
	c := collection(t, s, examplePods("/pods"))
	for i := range 5 {
		mustPut(t, c, "a", fmt.Sprint(i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	name := "store/log-00000000000000000001.wal"
	data := fs.Read(name)
	data[200] ^= 1
	fs.Write(name, data)
	e, err := wal.Open(wal.Options{Dir: "store", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(store.Config{Engine: e})
	var damage *engine.DamageError
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "at byte 128") {
		t.Errorf("open of a damaged directory: %v", err)
	}
}

func TestUseAfterClose(t *testing.T) {
	s := openStore(t, store.Config{})
	c := collection(t, s, examplePods("/pods"))
	mustPut(t, c, "a", "1")
	w, err := c.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: "0", Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range w.ResultChan() { // ends
	}
	if _, err := put(t.Context(), c, "a", "2"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	if _, err := c.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("watch after close: %v", err)
	}
	if err := s.Ready(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("readiness after close: %v", err)
	}
}

func TestForRefuses(t *testing.T) {
	s := openStore(t, store.Config{})
	collection(t, s, examplePods("/apps/deployments"))
	for _, prefix := range []string{"", "/", "/apps", "/apps/deployments/x"} {
		if _, err := s.For(examplePods(prefix)); err == nil {
			t.Errorf("prefix %q was accepted", prefix)
		}
	}
	again := collection(t, s, examplePods("apps/deployments/"))
	if c, ok := s.Collection("/apps/deployments"); !ok || c != again {
		t.Error("the same prefix gives another collection")
	}
}
