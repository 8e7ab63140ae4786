package node

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/drain"
	"coracle/internal/node/routed"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// served is a world whose agent knows services, and all nodes of which come to what the test says.
type served struct {
	*world
	mu      sync.Mutex
	all     uint64
	moved   chan struct{}
	asked   int
	refused error
}

// led is a fake router: it has carried out whatever the snapshot shows.
func (w *served) led() (uint64, <-chan struct{}) {
	var revision uint64
	for _, o := range w.cfg.Snapshot.List(resource.EndpointSlices, "") {
		revision = max(revision, view.RevisionOf(o))
	}
	later := make(chan struct{})
	time.AfterFunc(20*time.Millisecond, func() { close(later) })
	return revision, later
}

func (w *served) await(ctx context.Context, revision uint64) (uint64, []string, error) {
	w.mu.Lock()
	w.asked++
	w.mu.Unlock()
	for {
		w.mu.Lock()
		all, moved, refused := w.all, w.moved, w.refused
		w.mu.Unlock()
		if all >= revision || refused != nil {
			return all, nil, refused
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return all, []string{"two", "three"}, nil
		}
	}
}

func (w *served) everybodyAt(revision uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = revision
	close(w.moved)
	w.moved = make(chan struct{})
}

func inServed(t *testing.T, test func(w *served)) {
	t.Helper()
	inWorld(t, func(plain *world) {
		w := &served{world: plain, moved: make(chan struct{})}
		w.stop()
		<-w.ended
		w.cfg.Snapshot, w.cfg.SnapshotReady = view.New(), make(chan struct{})
		w.cfg.Routed, w.cfg.AwaitRouted = w.led, w.await
		w.start()
		w.must(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}},
		})
		w.settle(time.Second)
		test(w)
	})
}

// serving makes a pod that is ready and offered by the service.
func (w *served) serving(name string) {
	w.t.Helper()
	w.create(name, one("server:1"))
	w.editPod(name, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} })
	w.settle(5 * time.Second)
	w.offer(name, true)
	w.settle(time.Second)
}

// offer writes the slice of a pod, and returns its revision.
func (w *served) offer(name string, ready bool) uint64 {
	w.t.Helper()
	terminating := !ready
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-" + name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.244.0.9"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: name},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: &terminating},
		}},
	}
	old, err := w.cluster.Get(w.t.Context(), resource.EndpointSlices, "default", s.Name)
	if err != nil {
		return view.RevisionOf(w.must(s))
	}
	s.ResourceVersion = old.GetResourceVersion()
	out, err := w.cluster.Update(w.t.Context(), s, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return view.RevisionOf(out)
}

// alive says whether a container of the pods' image runs.
func (w *served) alive() bool { return len(w.images("server:1")) > 0 }

// TestDrain: a deleted pod that serves goes on until its service has stopped offering it and every node has acknowledged
// that; then it is stopped at once.
func TestDrain(t *testing.T) {
	inServed(t, func(w *served) {
		w.serving("a")
		w.delete("a", new(int64(30)))
		w.settle(300 * time.Millisecond)
		if !w.alive() {
			t.Fatal("stopped while the service offers it")
		}
		at := w.offer("a", false)
		w.settle(300 * time.Millisecond)
		if !w.alive() {
			t.Fatal("stopped before anybody acknowledged")
		}
		if got, _ := strconv.ParseUint(w.lease().Annotations[drain.Routed], 10, 64); got < at {
			t.Errorf("the lease acknowledges %d, the slice is of %d", got, at)
		}
		w.everybodyAt(at - 1)
		w.settle(100 * time.Millisecond)
		if !w.alive() {
			t.Fatal("stopped though a node has not come so far")
		}
		w.everybodyAt(at)
		w.settle(drain.Settle - 10*time.Millisecond)
		if !w.alive() {
			t.Error("stopped though connections may be on their way")
		}
		w.settle(20 * time.Millisecond)
		if w.alive() {
			t.Error("it runs though everybody has let go of it")
		}
		if events := w.events("a"); strings.Contains(events, routed.TimedOut) {
			t.Error(events)
		}
		w.clean()
	})
}

// TestAcknowledgesNewcomers: a slice with a pod that a rollout waits for is acknowledged at once, and once; one that nobody waits for
// with the next heartbeat.
func TestAcknowledgesNewcomers(t *testing.T) {
	inServed(t, func(w *served) {
		acknowledged := func() uint64 {
			at, _ := strconv.ParseUint(w.lease().Annotations[drain.Routed], 10, 64)
			return at
		}
		at := w.offer("a", true)
		w.settle(300 * time.Millisecond)
		if got := acknowledged(); got >= at {
			t.Errorf("acknowledged %d though nobody waits for %d", got, at)
		}
		s := w.must(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web-b", Annotations: map[string]string{drain.Awaited: "b"}, Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		}})
		w.settle(300 * time.Millisecond)
		if got := acknowledged(); got < view.RevisionOf(s) {
			t.Errorf("acknowledged %d, a rollout waits for %d", got, view.RevisionOf(s))
		}
		later := w.offer("c", true) // the slice that was awaited is there still
		w.settle(300 * time.Millisecond)
		if got := acknowledged(); got >= later {
			t.Errorf("acknowledged %d though nobody waits for %d any more", got, later)
		}
	})
}

// TestDrainIsBounded: what is not acknowledged in time is stopped, and it is said who did not.
func TestDrainIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(w *served)
		timeout string
		says    string
		limit   time.Duration
	}{
		"the service offers it": {func(*served) {}, "", "its EndpointSlices still said that it is ready", drain.DefaultTimeout},
		"nodes are behind":      {func(w *served) { w.offer("a", false) }, "", "not acknowledged by nodes two, three", drain.DefaultTimeout},
		"the server is away": {func(w *served) {
			w.refused = errors.New("no route to host")
			w.offer("a", false)
		}, "", "the API server did not say whether every node had let go of it: no route to host", 0},
		"as the pod says":   {func(w *served) { w.offer("a", false) }, "500ms", "Stopped 500ms after its deletion", 500 * time.Millisecond},
		"not at all":        {func(*served) {}, "0s", "", 0},
		"it cannot be read": {func(w *served) { w.offer("a", false) }, "soon", "InvalidDrainTimeout", drain.DefaultTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			inServed(t, func(w *served) {
				w.serving("a")
				if c.timeout != "" {
					w.editPod("a", func(p *corev1.Pod) { p.Annotations = map[string]string{drain.Timeout: c.timeout} })
				}
				w.settle(time.Second)
				w.delete("a", new(int64(30)))
				c.prepare(w)
				if c.limit > 0 {
					w.settle(c.limit - 50*time.Millisecond)
					if !w.alive() {
						t.Error("stopped too early")
					}
				}
				w.settle(100 * time.Millisecond)
				if w.alive() {
					t.Error("it runs after its time")
				}
				w.settle(time.Second)
				if events := w.events("a"); !strings.Contains(events, c.says) || c.says == "" && strings.Contains(events, routed.TimedOut) {
					t.Errorf("events:\n%s\nwant %q", events, c.says)
				}
				w.clean()
			})
		})
	}
}

// TestDrainsTogether: pods that go at the same time have the server asked one question at a time.
func TestDrainsTogether(t *testing.T) {
	inServed(t, func(w *served) {
		names := []string{"a", "b", "c", "d", "e", "f"}
		for _, name := range names {
			w.serving(name)
		}
		for _, name := range names {
			w.delete(name, new(int64(30)))
		}
		var at uint64
		for _, name := range names {
			at = w.offer(name, false)
		}
		w.settle(300 * time.Millisecond)
		if len(w.images("server:1")) != len(names) || w.asked > len(names) {
			t.Errorf("%d run, asked %d times", len(w.images("server:1")), w.asked)
		}
		w.everybodyAt(at)
		w.settle(drain.Settle + 10*time.Millisecond)
		if w.alive() || w.asked > len(names) {
			t.Errorf("some run: %v; asked %d times", w.alive(), w.asked)
		}
		w.clean()
	})
}

// TestNothingToDrain: a pod that nobody is led to is stopped at once.
func TestNothingToDrain(t *testing.T) {
	inServed(t, func(w *served) {
		w.create("a", one("server:1"))
		w.settle(5 * time.Second)
		w.delete("a", new(int64(30)))
		w.settle(10 * time.Millisecond)
		if w.alive() || w.asked > 0 {
			t.Errorf("it runs: %v; asked %d times", w.alive(), w.asked)
		}
		w.clean()
	})
}
