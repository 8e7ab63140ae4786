// Package view is an indexed snapshot of the cluster: the object.Reader that decisions are made on.
//
// It owns the objects seen so far, their indexes, and how recent the snapshot is, kind by kind. It
// is fed one event at a time (Apply) or a kind at a time (Replace): by Follow from a live
// cluster, by the simulator from a virtual one. Objects are shared, never copied; what a read
// returns never changes. It refuses writes to the cluster, and knows no kind's meaning.
package view

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// Event is one change to the cluster, as a watch tells it.
type Event struct {
	// Type is Added, Modified, Deleted or Bookmark. The first two mean the same here.
	Type watch.EventType
	// Resource may be left zero when Object is set.
	Resource resource.Resource
	// Object is the object after the change, or its last state when deleted; a bookmark needs
	// none.
	Object object.Object
	// Revision is the revision of the change; zero means Object's resourceVersion.
	Revision uint64
}

// Change is what an event did to the snapshot. Before and After are both nil when only the
// revision moved on.
type Change struct {
	Resource      resource.Resource
	Before, After object.Object
	// Revision is how recent the snapshot of this kind now is.
	Revision uint64
}

// View is a snapshot of the cluster. All methods may be called at any time from any goroutine;
// only Read sees several objects at one instant.
type View struct {
	mu     sync.RWMutex
	tables map[resource.Resource]*table

	// subscribers is replaced as a whole under mu, so that it can be walked without it.
	subscribers []*subscriber
}

type subscriber struct{ notify func(Change) }

// New returns an empty snapshot with the indexes declared.
func New(indexes ...object.Index) *View {
	v := &View{tables: map[resource.Resource]*table{}}
	v.AddIndexes(indexes...)
	return v
}

// AddIndexes declares indexes; objects already seen are filed at once.
func (v *View) AddIndexes(indexes ...object.Index) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ix := range indexes {
		v.table(ix.Resource).addIndex(ix.Name, func(into []string, o object.Object) []string {
			return append(into, ix.Values(o)...)
		})
	}
}

func (v *View) table(res resource.Resource) *table {
	t := v.tables[res]
	if t == nil {
		t = newTable(res)
		v.tables[res] = t
	}
	return t
}

// ParseRevision reads a resourceVersion. Empty or "0" is zero; revisions are decimal numbers
// (KEP-5504, comparable resource versions).
func ParseRevision(rv string) (uint64, error) {
	if rv == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(rv, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resourceVersion %q is not a decimal number", rv)
	}
	return n, nil
}

// RevisionOf returns the revision an object carries, zero when it carries none.
func RevisionOf(o object.Object) uint64 {
	n, err := ParseRevision(o.GetResourceVersion())
	if err != nil {
		return 0
	}
	return n
}

// Apply carries an event into the snapshot, tells the subscribers, and returns what changed. An
// event that is not newer than the snapshot of its kind is ignored: events may come twice.
func (v *View) Apply(e Event) Change {
	if e.Resource == (resource.Resource{}) {
		e.Resource = resource.Of(e.Object)
	}
	if e.Revision == 0 && e.Object != nil {
		e.Revision = RevisionOf(e.Object)
	}
	v.mu.Lock()
	t := v.table(e.Resource)
	ch := Change{Resource: e.Resource, Revision: t.revision}
	if e.Revision != 0 && e.Revision <= t.revision {
		v.mu.Unlock()
		return ch
	}
	switch e.Type {
	case watch.Deleted:
		ch.Before = v.set(t, object.KeyOf(e.Object), nil)
	case watch.Added, watch.Modified:
		ch.Before, ch.After = v.set(t, object.KeyOf(e.Object), e.Object), e.Object
	}
	t.revision = max(t.revision, e.Revision)
	ch.Revision = t.revision
	subs := v.subscribers
	v.mu.Unlock()
	for _, s := range subs {
		s.notify(ch)
	}
	return ch
}

// Replace makes objects the whole snapshot of a kind, as a list at revision tells it, tells the
// subscribers of every difference, and returns the differences. The last one always has neither
// Before nor After and says only how recent the snapshot is.
func (v *View) Replace(res resource.Resource, objects []object.Object, revision uint64) []Change {
	v.mu.Lock()
	t := v.table(res)
	t.revision = revision
	t.bulk = true
	gone := maps.Clone(t.objects)
	changes := make([]Change, 0, len(objects)+1)
	for _, o := range objects {
		k := object.KeyOf(o)
		delete(gone, k)
		if old, ok := t.objects[k]; ok && old.GetResourceVersion() == o.GetResourceVersion() && old.GetUID() == o.GetUID() {
			continue
		}
		before := v.set(t, k, o)
		if before != nil && before.GetUID() != o.GetUID() {
			// One object went and another of its name came: tell both.
			changes = append(changes, Change{res, before, nil, revision})
			before = nil
		}
		changes = append(changes, Change{res, before, o, revision})
	}
	left := slices.SortedFunc(maps.Keys(gone), func(a, b object.Key) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for _, k := range left {
		changes = append(changes, Change{res, v.set(t, k, nil), nil, revision})
	}
	t.settle()
	changes = append(changes, Change{Resource: res, Revision: revision})
	subs := v.subscribers
	v.mu.Unlock()
	for _, ch := range changes {
		for _, s := range subs {
			s.notify(ch)
		}
	}
	return changes
}

// Subscribe has notify called after each change, when the snapshot already shows it. Changes of
// one kind come in order; those of different kinds may come at the same time from different
// goroutines. Call the function returned to end it.
func (v *View) Subscribe(notify func(Change)) (cancel func()) {
	s := &subscriber{notify}
	v.mu.Lock()
	v.subscribers = append(v.subscribers[:len(v.subscribers):len(v.subscribers)], s)
	v.mu.Unlock()
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		var rest []*subscriber
		for _, other := range v.subscribers {
			if other != s {
				rest = append(rest, other)
			}
		}
		v.subscribers = rest
	}
}

// Revision says how recent the snapshot of a kind is; zero when none was ever applied.
func (v *View) Revision(res resource.Resource) uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if t := v.tables[res]; t != nil {
		return t.revision
	}
	return 0
}

// Read calls f with the snapshot held still. f must be quick, must not keep the Reader, and must
// not call the view's own methods.
func (v *View) Read(f func(object.Reader)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	f(still{v})
}

// Get implements object.Reader.
func (v *View) Get(res resource.Resource, namespace, name string) (object.Object, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return still{v}.Get(res, namespace, name)
}

// List implements object.Reader.
func (v *View) List(res resource.Resource, namespace string) []object.Object {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return still{v}.List(res, namespace)
}

// Indexed implements object.Reader.
func (v *View) Indexed(res resource.Resource, index, value string) []object.Object {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return still{v}.Indexed(res, index, value)
}

// Any implements object.Any.
func (v *View) Any(res resource.Resource, namespace string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return still{v}.Any(res, namespace)
}

// still reads a view whose lock is held.
type still struct{ v *View }

func (s still) Get(res resource.Resource, namespace, name string) (object.Object, bool) {
	t := s.v.tables[res]
	if t == nil {
		return nil, false
	}
	o, ok := t.objects[object.Key{Namespace: namespace, Name: name}]
	return o, ok
}

func (s still) List(res resource.Resource, namespace string) []object.Object {
	t := s.v.tables[res]
	if t == nil {
		return nil
	}
	if namespace == "" {
		return t.all.list()
	}
	if space := t.spaces[namespace]; space != nil {
		return space.list()
	}
	return nil
}

// Revision is how recent the snapshot of a kind is.
func (s still) Revision(res resource.Resource) uint64 {
	if t := s.v.tables[res]; t != nil {
		return t.revision
	}
	return 0
}

// Any implements object.Any: it counts, and merges nothing.
func (s still) Any(res resource.Resource, namespace string) bool {
	t := s.v.tables[res]
	if t == nil {
		return false
	}
	if namespace == "" {
		return len(t.objects) > 0
	}
	return t.spaces[namespace] != nil
}

// Indexed panics on an index nobody declared: the answer "none" would be a lie.
func (s still) Indexed(res resource.Resource, name, value string) []object.Object {
	t := s.v.tables[res]
	if t == nil {
		return nil
	}
	ix := t.index(name)
	if ix == nil {
		panic(fmt.Sprintf("view: %s has no index %q: declare it in the controller's Indexes", res, name))
	}
	if b := ix.buckets[value]; b != nil {
		return b.list()
	}
	return nil
}
