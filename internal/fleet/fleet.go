// Package fleet plays the kubelets of simulated nodes: nodes that run no containers, so that
// thousands of them and all their pods fit in the server's process.
//
// It owns the effects: it writes what package simnode decides, hands out pod addresses and renews
// the one lease by which all its nodes live. It is told of changes by the view and sleeps until
// then or until the next moment that simnode names; it has no goroutine for a node or a pod, and
// remembers nothing that the cluster's objects do not say, so it can be killed at any time. It
// refuses decisions, which are simnode's, and nodes that do not carry the annotation
// nodestate.SimulatedAnnotation: those have agents of their own.
package fleet

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client"
	"coracle/internal/cluster/nodelife"
	"coracle/internal/fit"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/simnode"
	"coracle/internal/view"
)

// Name is the fleet's field manager and the source of its events.
const Name = "simulated-kubelet"

// Options are what a fleet can do without.
type Options struct {
	// Version is what nodes say their agent's is.
	Version string
	// Workers bounds how many writes are under way at once; 0 means 64, which lets the store
	// make many durable with one sync.
	Workers int
	// Log is slog.Default() when nil.
	Log *slog.Logger
}

// Resources are the kinds that the view must follow.
func Resources() []resource.Resource {
	return []resource.Resource{resource.Nodes, resource.Pods, resource.PersistentVolumes, resource.PersistentVolumeClaims}
}

// Fleet plays simulated nodes. Make one with New.
type Fleet struct {
	client client.Interface
	view   *view.View
	tell   func(plan.Event)
	opts   Options

	mu sync.Mutex
	// running is set from the start of Run to its end: before it the view is not whole.
	running bool
	nodes   map[string]*node
	queue   queue
	// awaited are the pods that wait for a claim to be bound.
	awaited map[object.Key]map[object.Key]struct{}
	workers int
	wake    chan struct{}
}

// node is a simulated node as the fleet knows it.
type node struct {
	silent bool
	// complained is the shape (simnode.Shape) whose problems were told.
	complained string
	addresses  *addresses
	// starved are pods that wait for an address.
	starved map[object.Key]struct{}
	// taken is what its pods hold of it, those included whose beginning is still to be written.
	taken fit.Holdings
}

// New returns a fleet that hears of every change in v from now on, in which it declares its
// index. tell writes events.
func New(c client.Interface, v *view.View, tell func(plan.Event), opts Options) *Fleet {
	if opts.Workers == 0 {
		opts.Workers = 64
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	f := &Fleet{
		client: c, view: v, tell: tell, opts: opts, nodes: map[string]*node{}, queue: newQueue(),
		awaited: map[object.Key]map[object.Key]struct{}{}, wake: make(chan struct{}, 1),
	}
	v.AddIndexes(nodelife.PodsByNode, volumesByReclaimer)
	v.Subscribe(f.onChange)
	return f
}

// Run plays the simulated nodes until ctx ends. The view must be whole.
func (f *Fleet) Run(ctx context.Context) {
	ctx = client.WithManager(ctx, Name)
	f.begin()
	var working sync.WaitGroup
	defer working.Wait()
	defer f.end()
	renewer := leaseRenewer{fleet: f}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		next := f.hire(ctx, &working, now)
		if beat := renewer.beat(ctx, now); !beat.IsZero() && (next.IsZero() || beat.Before(next)) {
			next = beat
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-timer.C:
		}
	}
}

// begin takes in the nodes that are there already.
func (f *Fleet) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = true
	for _, o := range f.view.List(resource.Nodes, "") {
		f.nodeChanged(nil, o.(*corev1.Node))
	}
}

func (f *Fleet) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = false
}

// hear takes in a change to the view. It is called for every change in the cluster: what does
// not concern simulated nodes costs next to nothing.
func (f *Fleet) onChange(ch view.Change) {
	if !slices.Contains(heard, ch.Resource) || ch.Before == nil && ch.After == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.running {
		return
	}
	switch {
	case ch.Resource == resource.Nodes:
		before, _ := ch.Before.(*corev1.Node)
		after, _ := ch.After.(*corev1.Node)
		f.nodeChanged(before, after)
	case len(f.nodes) == 0:
	case ch.Resource == resource.Pods:
		before, _ := ch.Before.(*corev1.Pod)
		after, _ := ch.After.(*corev1.Pod)
		f.podChanged(before, after)
	case ch.Resource == resource.PersistentVolumeClaims:
		f.claimChanged(ch)
	case ch.After != nil:
		f.volumeChanged(ch.After.(*corev1.PersistentVolume))
	}
}

var heard = Resources()

// nodeChanged keeps the fleet's list of nodes true. f.mu is held.
func (f *Fleet) nodeChanged(before, after *corev1.Node) {
	if after == nil || !nodestate.Simulated(after) {
		if before != nil && f.nodes[before.Name] != nil {
			delete(f.nodes, before.Name)
			f.nudge() // the renewer may have nothing left to beat for
		}
		return
	}
	n := f.nodes[after.Name]
	resumes := n != nil && n.silent && !simnode.Silent(after)
	if n == nil {
		n = &node{starved: map[object.Key]struct{}{}}
		f.nodes[after.Name] = n
		resumes = true
		for _, o := range f.podsOn(after.Name) {
			n.count(nil, o.(*corev1.Pod))
		}
	}
	n.silent = simnode.Silent(after)
	f.enqueue(item{sort: aNode, key: object.Key{Name: after.Name}})
	if n.addresses == nil {
		if n.addresses = newAddresses(after); n.addresses != nil {
			for _, o := range f.podsOn(after.Name) {
				n.addresses.take(heldBy(o.(*corev1.Pod)))
			}
			resumes = true
		}
	}
	if before != nil && simnode.Shape(before.Annotations) != simnode.Shape(after.Annotations) {
		resumes = true
	}
	if resumes && !n.silent {
		for _, o := range f.view.Indexed(resource.PersistentVolumes, volumesByReclaimer.Name, after.Name) {
			f.volumeChanged(o.(*corev1.PersistentVolume))
		}
	}
	if resumes && n.addresses != nil && !n.silent {
		for _, o := range f.podsOn(after.Name) {
			f.enqueue(item{key: object.KeyOf(o)})
		}
	}
}

func (f *Fleet) podsOn(name string) []object.Object {
	return f.view.Indexed(resource.Pods, nodelife.PodsByNode.Name, name)
}

// podChanged looks at a pod of a simulated node anew. f.mu is held.
func (f *Fleet) podChanged(before, after *corev1.Pod) {
	pod := after
	if pod == nil {
		pod = before
	}
	n := f.nodes[pod.Spec.NodeName]
	if n == nil {
		return
	}
	key := object.KeyOf(pod)
	n.count(before, after)
	was, is := heldBy(before), heldBy(after)
	if e := f.queue.entries[item{key: key}]; e != nil && e.address.IsValid() && (after == nil || is.IsValid()) {
		// What was given out is now told, or lost with the pod.
		if after == nil {
			was = e.address
		}
		e.address = none
	}
	n.addresses.take(is)
	if was.IsValid() && was != is {
		n.addresses.give(was)
		f.feed(n)
	}
	if after == nil {
		delete(n.starved, key)
		f.forgetClaims(before)
		f.queue.forget(item{key: key})
		return
	}
	if !n.silent && n.addresses != nil {
		f.enqueue(item{key: key})
		if before != nil && simnode.Shape(before.Annotations) != simnode.Shape(after.Annotations) {
			f.queue.entries[item{key: key}].reshaped = true
		}
	}
}

// feed has the pods looked at anew that wait for an address. f.mu is held.
func (f *Fleet) feed(n *node) {
	for key := range n.starved {
		f.enqueue(item{key: key})
	}
	clear(n.starved)
}

// enqueue asks for an item to be looked at. f.mu is held.
func (f *Fleet) enqueue(it item) {
	if f.queue.add(it, time.Now()) {
		f.nudge()
	}
}

func (f *Fleet) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// hire moves what is due to the line and sees to it that workers work it off. It returns when
// the next item is due, zero when none is.
func (f *Fleet) hire(ctx context.Context, working *sync.WaitGroup, now time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.queue.ripen(now)
	for wanted := min(f.queue.waiting(), f.opts.Workers-f.workers); wanted > 0; wanted-- {
		f.workers++
		working.Go(func() { f.work(ctx) })
	}
	return next
}

// work works off the line and ends when it is empty.
func (f *Fleet) work(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.workers-- }()
	for ctx.Err() == nil {
		it, e := f.queue.take()
		if e == nil {
			return
		}
		f.mu.Unlock()
		var again time.Time
		switch it.sort {
		case aNode:
			again = f.syncNode(ctx, it.key.Name)
		case aVolume:
			again = f.syncVolume(ctx, it.key)
		case aPod:
			again = f.syncPod(ctx, it.key, e)
		}
		f.mu.Lock()
		if sooner := f.queue.done(it, again); sooner {
			f.nudge()
		}
	}
}
