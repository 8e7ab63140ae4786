package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"coracle/internal/drain"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// routes answers at drain.Path how far the nodes of the cluster have come in leading connections: it waits until all have
// come to a revision, or until the asker's time is up. It knows by their leases, and does nothing while nobody asks.
type routes struct {
	mu       sync.Mutex
	snapshot *view.View
	known    map[string]uint64 // by node; those that count
	waiting  map[*routesWait]bool
}

// routesWait is one who asks.
type routesWait struct {
	revision uint64
	behind   map[string]bool
	done     chan struct{} // closed when nobody is behind
}

func newRoutes() *routes {
	return &routes{known: map[string]uint64{}, waiting: map[*routesWait]bool{}}
}

// follow has the answers made from a snapshot that has Nodes and Leases, once it is whole.
func (r *routes) follow(ctx context.Context, snapshot *view.View, whole <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-whole:
	}
	r.mu.Lock()
	r.snapshot = snapshot
	r.mu.Unlock()
	snapshot.Subscribe(func(ch view.Change) {
		o := cmp.Or(ch.After, ch.Before)
		if o != nil && (ch.Resource == resource.Nodes || ch.Resource == resource.Leases && o.GetNamespace() == corev1.NamespaceNodeLease) {
			r.look(o.GetName())
		}
	})
	for _, o := range snapshot.List(resource.Nodes, "") {
		r.look(o.GetName())
	}
}

// look notes how far a node has come.
func (r *routes) look(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	revision, counts := acknowledgedBy(r.snapshot, name)
	if !counts {
		delete(r.known, name)
	} else {
		r.known[name] = revision
	}
	for w := range r.waiting {
		if w.behind[name] && (!counts || revision >= w.revision) {
			if delete(w.behind, name); len(w.behind) == 0 {
				close(w.done)
				delete(r.waiting, w)
			}
		}
	}
}

// acknowledgedBy returns how far a node has come; counts is false for one that leads nobody, or that is not waited for.
func acknowledgedBy(snapshot object.Reader, name string) (revision uint64, counts bool) {
	node, ok := snapshot.Get(resource.Nodes, "", name)
	if !ok || !drain.Counts(node.(*corev1.Node)) {
		return 0, false
	}
	lease, ok := snapshot.Get(resource.Leases, corev1.NamespaceNodeLease, name)
	if !ok {
		return 0, false
	}
	return drain.Acknowledged(lease.(*coordinationv1.Lease))
}

// await waits until all nodes have come to a revision, or for ctx to end, and returns how far all have come and who has not
// come so far.
func (r *routes) await(ctx context.Context, revision uint64) (routed, error) {
	r.mu.Lock()
	if r.snapshot == nil {
		r.mu.Unlock()
		return routed{}, apierrors.NewServiceUnavailable("the controllers are still starting, please try again")
	}
	w := &routesWait{revision: revision, behind: map[string]bool{}, done: make(chan struct{})}
	for name, at := range r.known {
		if at < revision {
			w.behind[name] = true
		}
	}
	if len(w.behind) > 0 {
		r.waiting[w] = true
		r.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-w.done:
		}
		r.mu.Lock()
		delete(r.waiting, w)
	}
	defer r.mu.Unlock()
	out := routed{All: revision, Behind: slices.Sorted(maps.Keys(w.behind))}
	if len(r.known) > 0 {
		out.All = slices.Min(slices.Collect(maps.Values(r.known)))
	}
	return out, nil
}

// routed is the answer: all nodes have come to the revision All; those named in Behind have not come to the one asked about.
type routed struct {
	All    uint64   `json:"all"`
	Behind []string `json:"behind,omitempty"`
}

// Times that a question may wait.
const (
	mostRoutedWait = 30 * time.Second
	// routedAnswer is left for the answer to come back.
	routedAnswer = 100 * time.Millisecond
)

// ServeHTTP implements http.Handler: GET ?revision=N&timeout=2s.
func (r *routes) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	out, err := r.answer(req)
	if err != nil {
		answerError(w, err)
		return
	}
	answerJSON(w, http.StatusOK, out)
}

func (r *routes) answer(req *http.Request) (routed, error) {
	if req.Method != http.MethodGet {
		return routed{}, apierrors.NewMethodNotSupported(metav1.SchemeGroupVersion.WithResource("routed").GroupResource(), req.Method)
	}
	query := req.URL.Query()
	revision, err := strconv.ParseUint(query.Get("revision"), 10, 64)
	if err != nil {
		return routed{}, apierrors.NewBadRequest(fmt.Sprintf("revision=%q: give a resourceVersion of an EndpointSlice, a decimal number", query.Get("revision")))
	}
	wait, err := time.ParseDuration(cmp.Or(query.Get("timeout"), "0s"))
	if err != nil || wait < 0 || wait > mostRoutedWait {
		return routed{}, apierrors.NewBadRequest(fmt.Sprintf("timeout=%q: give a length of time of at most %s, such as 2s", query.Get("timeout"), mostRoutedWait))
	}
	ctx, cancel := context.WithTimeout(req.Context(), wait)
	defer cancel()
	return r.await(ctx, revision)
}

// askRouted returns how a node asks its server.
func askRouted(config *rest.Config) (func(ctx context.Context, revision uint64) (all uint64, behind []string, err error), error) {
	api, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	return func(ctx context.Context, revision uint64) (uint64, []string, error) {
		wait := mostRoutedWait
		if end, ok := ctx.Deadline(); ok {
			wait = max(min(time.Until(end)-routedAnswer, wait), 0)
		}
		query := url.Values{"revision": {strconv.FormatUint(revision, 10)}, "timeout": {wait.String()}}
		raw, err := getWith(ctx, api, config, drain.Path+"?"+query.Encode())
		if err != nil {
			return 0, nil, err
		}
		var out routed
		if err := json.Unmarshal(raw, &out); err != nil {
			return 0, nil, fmt.Errorf("read the server's answer: %w", err)
		}
		return out.All, out.Behind, nil
	}, nil
}
