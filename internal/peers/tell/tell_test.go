package tell

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/object"
	"coracle/internal/peers"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// world is a server's snapshot, and the policies that it has accepted.
type world struct {
	t        *testing.T
	snapshot *view.View
	revision uint64
	server   *httptest.Server

	mu       sync.Mutex
	accepted map[string]object.Object
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, snapshot: view.New(), accepted: map[string]object.Object{}}
	teller := New(func(context.Context) ([]object.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		var out []object.Object
		for _, o := range w.accepted {
			out = append(out, o)
		}
		return out, nil
	})
	whole := make(chan struct{})
	close(whole)
	teller.Follow(t.Context(), w.snapshot, whole)
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		_ = teller.Serve(rw, req, req.URL.Query().Get("node"))
	}))
	t.Cleanup(w.server.Close)
	return w
}

// accept has the server accept an object; show, its snapshot have it.
func (w *world) accept(o object.Object) object.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revision++
	o.SetResourceVersion(strconv.FormatUint(w.revision, 10))
	if p, ok := o.(*networkingv1.NetworkPolicy); ok {
		w.accepted[p.Name] = p
	}
	return o
}

func (w *world) show(objects ...object.Object) {
	for _, o := range objects {
		w.snapshot.Apply(view.Event{Type: watch.Modified, Object: o})
	}
}

func (w *world) drop(o object.Object) {
	w.mu.Lock()
	w.revision++
	delete(w.accepted, o.GetName())
	at := w.revision
	w.mu.Unlock()
	w.snapshot.Apply(view.Event{Type: watch.Deleted, Object: o, Resource: resource.Of(o), Revision: at})
}

// hear returns what a node hears, in words, one at a time.
func (w *world) hear(node string) func() string {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.server.URL+"?node="+node, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // who reads it closes it
	if err != nil {
		w.t.Fatal(err)
	}
	words := make(chan string, 100)
	go func() {
		defer resp.Body.Close()
		for in := json.NewDecoder(resp.Body); ; {
			var m peers.Message
			if in.Decode(&m) != nil {
				close(words)
				return
			}
			words <- wordOf(&m)
		}
	}()
	return func() string {
		select {
		case word := <-words:
			return word
		case <-time.After(10 * time.Second):
			return "nothing"
		}
	}
}

func wordOf(m *peers.Message) string {
	switch {
	case m.Begin:
		return "begin"
	case m.End:
		return "end"
	case m.Policy != nil:
		return "policy " + m.Policy.Name
	case m.Namespace != nil:
		return "namespace " + m.Namespace.Name + " " + fmt.Sprint(m.Namespace.Labels)
	case m.Pod != nil:
		return strings.TrimSpace(fmt.Sprintf("pod %s %v %v %v %s", m.Pod.Name, m.Pod.Labels, m.Pod.IPs, m.Pod.Ports, m.Pod.Here))
	case m.Gone != nil:
		return "gone " + m.Gone.Kind + " " + m.Gone.Name
	}
	return "?"
}

func (w *world) want(next func() string, want ...string) {
	w.t.Helper()
	for _, word := range want {
		if got := next(); got != word {
			w.t.Fatalf("told %q, want %q", got, word)
		}
	}
}

func somePod(name, node string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}}}
	p.Annotations = map[string]string{"secret": "annotation"}
	p.Spec.NodeName = node
	p.Spec.Containers = []corev1.Container{{Image: "secret", Env: []corev1.EnvVar{{Name: "secret"}}, Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}, {ContainerPort: 81}}}}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func somePolicy(name string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
}

// TestTell: without policies a node is told of its own pods alone; with the first it is told of everything, and then of what changes;
// after the last of nothing but its own again.
func TestTell(t *testing.T) {
	w := newWorld(t)
	own, other := somePod("own", "n1"), somePod("other", "n2", "10.0.2.1")
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"a": "b"}}}
	w.show(w.accept(space), w.accept(own))
	n1 := w.hear("n1")
	w.want(n1, "begin", "pod own map[app:own] [] [{web 80 }] uid-own", "end")
	w.show(w.accept(other), w.accept(somePod("unbound", "")))
	w.show(w.accept(somePod("next", "n1")))
	w.want(n1, "pod next map[app:next] [] [{web 80 }] uid-next")

	w.show(w.accept(somePolicy("p")))
	w.want(n1, "begin", "policy p", "namespace shop map[a:b]", "pod next map[app:next] [] [{web 80 }] uid-next",
		"pod other map[app:other] [10.0.2.1] [{web 80 }]", "pod own map[app:own] [] [{web 80 }] uid-own", "end")

	// What no policy asks for is not told.
	busy := other.DeepCopy()
	busy.Status.Phase, busy.Annotations = corev1.PodRunning, map[string]string{"else": "x"}
	w.show(w.accept(busy))
	relabelled := busy.DeepCopy()
	relabelled.Labels = map[string]string{"app": "new"}
	w.show(w.accept(relabelled))
	w.want(n1, "pod other map[app:new] [10.0.2.1] [{web 80 }]")
	ended := relabelled.DeepCopy()
	ended.Status.Phase = corev1.PodSucceeded
	w.show(w.accept(ended))
	w.want(n1, "gone Pod other")
	space = space.DeepCopy()
	space.Labels = nil
	w.show(w.accept(space))
	w.want(n1, "namespace shop map[]")
	w.drop(own)
	w.want(n1, "gone Pod own")
	w.drop(somePolicy("p"))
	w.want(n1, "begin", "pod next map[app:next] [] [{web 80 }] uid-next", "end")
}

// TestPoliciesFirst: a pod of the node is told of when the policies have been that were accepted before, however late the snapshot
// shows them.
func TestPoliciesFirst(t *testing.T) {
	w := newWorld(t)
	n1 := w.hear("n1")
	w.want(n1, "begin", "end")
	first := w.accept(somePolicy("first"))
	w.show(w.accept(somePod("own", "n1"))) // the pod's watch is quicker than the policy's
	w.show(first)
	w.want(n1, "begin", "policy first", "pod own map[app:own] [] [{web 80 }] uid-own", "end")

	changed := w.accept(somePolicy("first"))
	second := w.accept(somePolicy("second"))
	w.show(w.accept(somePod("next", "n1")))
	w.show(changed)
	w.show(second)
	seen := map[string]bool{}
	for range 3 {
		word := n1()
		if strings.HasPrefix(word, "pod ") && (!seen["policy first"] || !seen["policy second"]) {
			t.Fatalf("told %q after %v", word, seen)
		}
		seen[word] = true
	}
	if !seen["pod next map[app:next] [] [{web 80 }] uid-next"] {
		t.Errorf("told %v", seen)
	}
	// One that was accepted and is gone again is not waited for.
	w.accept(somePolicy("brief"))
	w.drop(somePolicy("brief"))
	w.show(w.accept(somePod("last", "n1")))
	w.want(n1, "pod last map[app:last] [] [{web 80 }] uid-last")
}
