// Package tell is the server's end of package peers: it tells nodes of peers as the server's snapshot of the cluster changes.
//
// It owns the streams under way, and what each has yet to be told: keys, so that a node that reads slowly is told of the last
// version alone. It refuses to know who may ask.
package tell

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/object"
	"coracle/internal/peers"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// Resources are what the snapshot must have.
func Resources() []resource.Resource {
	return []resource.Resource{resource.NetworkPolicies, resource.Namespaces, resource.Pods}
}

// Teller tells nodes. Make it with New.
type Teller struct {
	// accepted returns the policies that there are at this moment, however old the snapshot is.
	accepted func(context.Context) ([]object.Object, error)

	mu       sync.Mutex
	snapshot *view.View
	// seen has the policies whose change every stream knows it has to tell, by their revisions; moved is closed when one more has.
	seen    map[object.Key]uint64
	moved   chan struct{}
	streams map[*stream]bool
	byNode  map[string]map[*stream]bool
}

// New returns a teller that has nothing to tell yet.
func New(accepted func(context.Context) ([]object.Object, error)) *Teller {
	return &Teller{
		accepted: accepted, seen: map[object.Key]uint64{}, moved: make(chan struct{}), streams: map[*stream]bool{}, byNode: map[string]map[*stream]bool{},
	}
}

// Follow has nodes told what a snapshot shows, once it is whole.
func (t *Teller) Follow(ctx context.Context, snapshot *view.View, whole <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-whole:
	}
	snapshot.Subscribe(t.changed)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.snapshot = snapshot
	for _, o := range snapshot.List(resource.NetworkPolicies, "") {
		t.seen[object.KeyOf(o)] = max(t.seen[object.KeyOf(o)], view.RevisionOf(o))
	}
	for s := range t.streams {
		s.mark(nil)
	}
}

// item is what a stream has to tell of.
type item struct {
	kind string
	object.Key
}

func (t *Teller) changed(ch view.Change) {
	switch ch.Resource {
	case resource.NetworkPolicies:
		t.policyChanged(ch)
	case resource.Namespaces:
		t.mu.Lock()
		defer t.mu.Unlock()
		if o := either(ch); o != nil && len(t.seen) > 0 {
			t.markAll(item{peers.KindNamespace, object.KeyOf(o)})
		}
	case resource.Pods:
		t.podChanged(ch)
	}
}

func either(ch view.Change) object.Object {
	if ch.After != nil {
		return ch.After
	}
	return ch.Before
}

func (t *Teller) policyChanged(ch view.Change) {
	o := either(ch)
	if o == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := object.KeyOf(o)
	governed := len(t.seen) > 0
	if ch.After != nil {
		t.seen[key] = view.RevisionOf(ch.After)
	} else {
		delete(t.seen, key)
	}
	if governed != (len(t.seen) > 0) {
		for s := range t.streams {
			s.mark(nil) // all of the cluster, or nothing of it
		}
	} else {
		t.markAll(item{peers.KindPolicy, key})
	}
	close(t.moved)
	t.moved = make(chan struct{})
}

func (t *Teller) podChanged(ch view.Change) {
	before, _ := ch.Before.(*corev1.Pod)
	after, _ := ch.After.(*corev1.Pod)
	if before == nil && after == nil || before != nil && after != nil && peers.Same(before, after) {
		return
	}
	it := item{peers.KindPod, object.KeyOf(either(ch))}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.seen) > 0 {
		t.markAll(it)
		return
	}
	for _, p := range []*corev1.Pod{before, after} {
		if p == nil || p.Spec.NodeName == "" {
			continue
		}
		for s := range t.byNode[p.Spec.NodeName] {
			s.mark(&it)
		}
	}
}

func (t *Teller) markAll(it item) {
	for s := range t.streams {
		s.mark(&it)
	}
}

// stream is one answer under way.
type stream struct {
	node string
	wake chan struct{}

	mu  sync.Mutex
	all bool
	due map[item]bool
}

// mark has the stream tell of an item, or anew of everything.
func (s *stream) mark(it *item) {
	s.mu.Lock()
	if it == nil {
		s.all = true
		clear(s.due)
	} else if !s.all {
		s.due[*it] = true
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *stream) take() (all bool, due map[item]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, due = s.all, s.due
	s.all, s.due = false, map[item]bool{}
	return all, due
}

// late adds to due the policies and namespaces that have become due since; all says that everything has.
func (s *stream) late(due map[item]bool) (all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for it := range s.due {
		if it.kind != peers.KindPod {
			due[it] = true
			delete(s.due, it)
		}
	}
	return s.all
}

// Serve tells a node until its request ends.
func (t *Teller) Serve(w http.ResponseWriter, req *http.Request, node string) error {
	s := &stream{node: node, wake: make(chan struct{}, 1), due: map[item]bool{}}
	t.mu.Lock()
	if t.snapshot == nil {
		t.mu.Unlock()
		return apierrors.NewServiceUnavailable("the controllers are still starting, please try again")
	}
	t.streams[s] = true
	if t.byNode[node] == nil {
		t.byNode[node] = map[*stream]bool{}
	}
	t.byNode[node][s] = true
	s.mark(nil)
	t.mu.Unlock()
	defer t.leave(s)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	out := &lines{encode: json.NewEncoder(w)}
	flush := http.NewResponseController(w).Flush
	for {
		select {
		case <-req.Context().Done():
			return nil
		case <-s.wake:
		}
		if err := t.next(req.Context(), s, out); err != nil {
			return nil //nolint:nilerr // the answer has begun: its end says that it failed, and the node asks again
		}
		if out.err != nil || flush() != nil {
			return nil // the node has gone
		}
	}
}

// next tells of what is due. Pods are taken from the snapshot first, then the policies are waited for that were accepted by
// then, and told before them.
func (t *Teller) next(ctx context.Context, s *stream, out *lines) error {
	all, due := s.take()
	var pods []peers.Message
	if all {
		pods = t.pods(s.node)
	} else {
		pods = t.messages(due, peers.KindPod, s.node)
	}
	if err := t.fresh(ctx); err != nil {
		return err
	}
	if all {
		t.tellAll(out, pods)
		return nil
	}
	if s.late(due) {
		return nil // everything comes next
	}
	for _, kind := range []string{peers.KindPolicy, peers.KindNamespace} {
		out.say(t.messages(due, kind, s.node)...)
	}
	out.say(pods...)
	return nil
}

func (t *Teller) leave(s *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.streams, s)
	if delete(t.byNode[s.node], s); len(t.byNode[s.node]) == 0 {
		delete(t.byNode, s.node)
	}
}

// fresh waits until the streams know of every policy that is accepted by now. Kinds reach the snapshot each for itself, so that
// a pod may have come before the policy that its user wrote first.
func (t *Teller) fresh(ctx context.Context) error {
	list, err := t.accepted(ctx)
	if err != nil {
		return err
	}
	for {
		t.mu.Lock()
		behind := false
		for _, o := range list {
			// One that was deleted meanwhile is not waited for: what follows its deletion is not its business.
			at, known := t.seen[object.KeyOf(o)]
			_, there := t.snapshot.Get(resource.NetworkPolicies, o.GetNamespace(), o.GetName())
			behind = behind || known && at < view.RevisionOf(o) || !known && (there || t.snapshot.Revision(resource.NetworkPolicies) < view.RevisionOf(o))
		}
		moved := t.moved
		t.mu.Unlock()
		if !behind {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}

// lines writes messages, until one fails.
type lines struct {
	encode *json.Encoder
	err    error
}

func (l *lines) say(all ...peers.Message) {
	for _, m := range all {
		if l.err == nil {
			l.err = l.encode.Encode(m)
		}
	}
}

// pods are those that a node is told of: in a cluster without policies its own alone.
func (t *Teller) pods(node string) []peers.Message {
	var out []peers.Message
	governed := t.snapshot.Any(resource.NetworkPolicies, "")
	for _, o := range t.snapshot.List(resource.Pods, "") {
		if pod := o.(*corev1.Pod); governed || pod.Spec.NodeName == node {
			if p := peers.OfPod(pod, node); p != nil {
				out = append(out, peers.Message{Pod: p})
			}
		}
	}
	return out
}

// tellAll tells of everything.
func (t *Teller) tellAll(out *lines, pods []peers.Message) {
	out.say(peers.Message{Begin: true})
	policies := t.snapshot.List(resource.NetworkPolicies, "")
	for _, o := range policies {
		out.say(peers.Message{Policy: peers.OfPolicy(o.(*networkingv1.NetworkPolicy))})
	}
	if len(policies) > 0 {
		for _, o := range t.snapshot.List(resource.Namespaces, "") {
			out.say(peers.Message{Namespace: peers.OfNamespace(o.(*corev1.Namespace))})
		}
	}
	out.say(pods...)
	out.say(peers.Message{End: true})
}

var kinds = map[string]resource.Resource{
	peers.KindPolicy: resource.NetworkPolicies, peers.KindNamespace: resource.Namespaces, peers.KindPod: resource.Pods,
}

// messages are what there is to say of the items of a kind.
func (t *Teller) messages(due map[item]bool, kind, node string) []peers.Message {
	var out []peers.Message
	for it := range due {
		if it.kind == kind {
			out = append(out, t.message(it, node))
		}
	}
	return out
}

func (t *Teller) message(it item, node string) peers.Message {
	gone := peers.Message{Gone: &peers.Gone{Kind: it.kind, Namespace: it.Namespace, Name: it.Name}}
	o, ok := t.snapshot.Get(kinds[it.kind], it.Namespace, it.Name)
	if !ok {
		return gone
	}
	switch o := o.(type) {
	case *networkingv1.NetworkPolicy:
		return peers.Message{Policy: peers.OfPolicy(o)}
	case *corev1.Namespace:
		return peers.Message{Namespace: peers.OfNamespace(o)}
	case *corev1.Pod:
		if p := peers.OfPod(o, node); p != nil {
			return peers.Message{Pod: p}
		}
	}
	return gone
}
