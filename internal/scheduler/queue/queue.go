// Package queue holds the pods that wait for a place: those to be tried now, by priority, and
// those that were refused, each with the causes whose change could help.
//
// Pods that are alike form a group: where one is refused, all would be. A change wakes only the
// first of a large group, and the next one when that found a place; so ten thousand hopeless pods
// cost a change no more than one (group.go).
//
// It owns order, waking and backoff. It is pure: the time is passed in. It refuses placement
// decisions (package place) and polling: a refused pod is tried again only when something
// happened that could change the answer.
package queue

import (
	"cmp"
	"time"

	"k8s.io/apimachinery/pkg/types"
	v1helper "k8s.io/component-helpers/scheduling/corev1"

	"coracle/internal/heap"
	"coracle/internal/scheduler/place"
)

// A pod that was tried in vain n times rests this long before the next try that an event asks
// for; the first such try is immediate. A failed binding rests from the first time on.
const (
	firstRest = 100 * time.Millisecond
	lastRest  = 10 * time.Second
)

// Item is a pod in the queue.
type Item struct {
	Pod *place.Pod
	// Added is when it first came; Attempts counts tries in vain.
	Added    time.Time
	Attempts int
	// Prefer is the node to choose among equals, or "".
	Prefer string

	// group is where the pod sleeps, or which it tries for.
	group *group
	// ready is when a resting pod may be tried; index is its place in the heap it is in.
	ready time.Time
	index int
	state state
}

type state uint8

const (
	// taken: handed out by Pop, its fate not yet told.
	taken state = iota
	active
	resting
	refused
)

// Queue is not safe for concurrent use.
type Queue struct {
	items   map[types.UID]*Item
	active  *heap.Heap[*Item]
	resting *heap.Heap[*Item]
	// groups hold the refused pods: they are walked only when a cause changes.
	groups map[place.Alike]*group
	// moved collects causes that changed while pods were taken: a try that began before the
	// change must not put its pod to sleep past it.
	moved map[types.UID]place.Cause
	taken map[types.UID]struct{}
}

// New returns an empty queue.
func New() *Queue {
	return &Queue{
		items: map[types.UID]*Item{}, active: newHeap(sooner), resting: newHeap(earlier),
		groups: map[place.Alike]*group{}, moved: map[types.UID]place.Cause{}, taken: map[types.UID]struct{}{},
	}
}

func newHeap(before func(a, b *Item) bool) *heap.Heap[*Item] {
	return heap.New(before, func(it *Item) *int { return &it.index })
}

// Len returns how many pods wait, those taken included.
func (q *Queue) Len() int { return len(q.items) }

// Set adds a pod or replaces its object. changed says that its own spec or metadata changed in
// a way that may help: then it is tried at once.
func (q *Queue) Set(p *place.Pod, changed bool, now time.Time) {
	it := q.items[p.UID]
	if it == nil {
		it = &Item{Pod: p, Added: now}
		q.items[p.UID] = it
		q.activate(it)
		return
	}
	it.Pod = p
	if !changed {
		return
	}
	switch it.state {
	case refused, resting:
		q.leave(it)
		it.Attempts = 0
		q.activate(it)
	case taken:
		q.moved[p.UID] = ^place.Cause(0)
	}
	q.passOn(it) // it may be like others now
}

// Remove forgets a pod.
func (q *Queue) Remove(uid types.UID) {
	it := q.items[uid]
	if it == nil {
		return
	}
	q.leave(it)
	delete(q.items, uid)
	q.untake(uid)
	q.passOn(it)
}

// Get returns a pod's item.
func (q *Queue) Get(uid types.UID) *Item { return q.items[uid] }

// Pop hands out the pod to try next: the highest priority first, then the longest waiting. Its
// fate must be told with Remove (placed), Refuse or Rest; Placing may come before.
func (q *Queue) Pop(now time.Time) *Item {
	for q.resting.Len() > 0 && !q.resting.First().ready.After(now) {
		q.activate(q.resting.Pop())
	}
	if q.active.Len() == 0 {
		return nil
	}
	it := q.active.Pop()
	it.state = taken
	q.taken[it.Pod.UID] = struct{}{}
	return it
}

// Due says that Pop would hand out a pod.
func (q *Queue) Due(now time.Time) bool {
	return q.active.Len() > 0 || q.resting.Len() > 0 && !q.resting.First().ready.After(now)
}

// Next is when a resting pod may be tried, zero when none rests.
func (q *Queue) Next() time.Time {
	if q.resting.Len() == 0 {
		return time.Time{}
	}
	return q.resting.First().ready
}

// Placing says that a taken pod has a node and its binding is under way: what it left free may
// be enough for the next one of its group.
func (q *Queue) Placing(it *Item) { q.passOn(it) }

// Refuse puts a taken pod to sleep until one of the causes changes. One that has a node to prefer
// has room of its own there, and sleeps by itself.
func (q *Queue) Refuse(it *Item, causes place.Cause, now time.Time) {
	if q.items[it.Pod.UID] != it {
		return
	}
	it.Attempts++
	moved := q.moved[it.Pod.UID]
	q.untake(it.Pod.UID)
	if moved&causes != 0 {
		q.wake(it, now)
		return
	}
	q.sleep(it, causes)
}

// Rest tries a taken pod again after a pause, whatever happens: its binding failed.
func (q *Queue) Rest(it *Item, now time.Time) {
	if q.items[it.Pod.UID] != it {
		return
	}
	it.Attempts++
	q.untake(it.Pod.UID)
	q.passOn(it)
	q.rest(it, now.Add(pause(it.Attempts)))
}

// Changed wakes the pods that wait for any of the causes, of a large group the first, and
// remembers the change for those that are being tried right now.
func (q *Queue) Changed(causes place.Cause, now time.Time) {
	for _, c := range q.groups {
		if c.causes&causes != 0 {
			q.wakeGroup(c, now)
		}
	}
	for uid := range q.taken {
		q.moved[uid] |= causes
	}
}

// wake brings a refused pod back: at once the first time, after a growing pause later, so that
// a busy cluster does not try thousands of hopeless pods at each event.
func (q *Queue) wake(it *Item, now time.Time) {
	if it.Attempts <= 1 {
		q.activate(it)
		return
	}
	q.rest(it, now.Add(pause(it.Attempts-1)))
}

func pause(attempts int) time.Duration {
	if attempts > 10 {
		return lastRest
	}
	return min(firstRest<<(attempts-1), lastRest)
}

func (q *Queue) untake(uid types.UID) {
	delete(q.taken, uid)
	delete(q.moved, uid)
}

func (q *Queue) activate(it *Item) {
	it.state = active
	q.active.Push(it)
}

func (q *Queue) rest(it *Item, until time.Time) {
	it.state, it.ready = resting, until
	q.resting.Push(it)
}

// leave takes an item out of where it waits.
func (q *Queue) leave(it *Item) {
	switch it.state {
	case active:
		q.active.Remove(it)
	case resting:
		q.resting.Remove(it)
	case refused:
		q.unsleep(it)
	}
}

// sooner orders by priority, then by age.
func sooner(a, b *Item) bool {
	return cmp.Or(
		cmp.Compare(v1helper.PodPriority(b.Pod.Object), v1helper.PodPriority(a.Pod.Object)),
		a.Added.Compare(b.Added),
		cmp.Compare(a.Pod.UID, b.Pod.UID), // any order will do, as long as it is always the same
	) < 0
}

// earlier orders by the end of rest.
func earlier(a, b *Item) bool {
	return cmp.Or(a.ready.Compare(b.ready), cmp.Compare(a.Pod.UID, b.Pod.UID)) < 0
}
