package view

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// table holds the objects of one kind with their indexes.
type table struct {
	res      resource.Resource
	objects  map[object.Key]object.Object
	all      *set
	spaces   map[string]*set
	indexes  []*index
	revision uint64
	// digests are of this kind's objects; followed are those that depend on them.
	digests  []*digest
	followed []followed
	// bulk is set while many objects come at once: sets then merge once, in settle.
	bulk bool

	// Scratch for the index values of the object before and after a change.
	was, is []string
}

type index struct {
	table *table
	name  string
	// values appends the values an object is filed under.
	values  func(into []string, o object.Object) []string
	buckets map[string]*set
	// summaries are kept of what is in the buckets.
	summaries []*summary
}

func newTable(res resource.Resource) *table {
	t := &table{
		res:     res,
		objects: map[object.Key]object.Object{},
		spaces:  map[string]*set{},
	}
	t.all = newSet(t)
	t.addIndex(object.ByController, controllerOf)
	t.addIndex(object.ByOrphan, orphanIn)
	t.addIndex(object.ByOwner, ownersOf)
	return t
}

func controllerOf(into []string, o object.Object) []string {
	if c := metav1.GetControllerOfNoCopy(o); c != nil {
		return append(into, string(c.UID))
	}
	return into
}

func orphanIn(into []string, o object.Object) []string {
	if metav1.GetControllerOfNoCopy(o) != nil {
		return into
	}
	return append(into, o.GetNamespace())
}

func ownersOf(into []string, o object.Object) []string {
	for _, ref := range o.GetOwnerReferences() {
		into = append(into, string(ref.UID))
	}
	return into
}

// addIndex declares an index and files what is there already. A second declaration of a name
// replaces the first.
func (t *table) addIndex(name string, values func([]string, object.Object) []string) {
	ix := &index{table: t, name: name, values: values, buckets: map[string]*set{}}
	for k, o := range t.objects {
		ix.refile(k, nil, o, nil, unique(values(nil, o)))
	}
	if at := slices.IndexFunc(t.indexes, func(i *index) bool { return i.name == name }); at >= 0 {
		for _, s := range t.indexes[at].summaries {
			ix.summarize(s.Summary)
		}
		t.indexes[at] = ix
		return
	}
	t.indexes = append(t.indexes, ix)
}

func (t *table) index(name string) *index {
	for _, ix := range t.indexes {
		if ix.name == name {
			return ix
		}
	}
	return nil
}

// unique drops repeated values: an object is filed once under each.
func unique(values []string) []string {
	if len(values) < 2 {
		return values
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// set stores after (nil removes) under k, tells the digests, and returns what was there.
func (v *View) set(t *table, k object.Key, after object.Object) (before object.Object) {
	before = t.set(k, after)
	if len(t.digests)+len(t.followed) > 0 && (before != nil || after != nil) {
		t.note(still{v}, k, before, after)
	}
	return before
}

// set is View.set, but for the digests.
func (t *table) set(k object.Key, after object.Object) (before object.Object) {
	before, had := t.objects[k]
	if !had && after == nil {
		return nil
	}
	for _, ix := range t.indexes {
		t.was, t.is = t.was[:0], t.is[:0]
		if had {
			t.was = unique(ix.values(t.was, before))
		}
		if after != nil {
			t.is = unique(ix.values(t.is, after))
		}
		ix.refile(k, before, after, t.was, t.is)
	}
	if after == nil {
		delete(t.objects, k)
		t.all.remove(k)
		if t.spaces[k.Namespace].remove(k) {
			delete(t.spaces, k.Namespace)
		}
		return before
	}
	t.objects[k] = after
	t.all.put(k, after, had)
	space := t.spaces[k.Namespace]
	if space == nil {
		space = newSet(t)
		t.spaces[k.Namespace] = space
	}
	space.put(k, after, had)
	return before
}

// settle ends a bulk of changes: every set merges what it noted, once.
func (t *table) settle() {
	t.bulk = false
	settle := func(s *set) {
		if len(s.pending) > 0 {
			s.merge()
		}
	}
	settle(t.all)
	for _, s := range t.spaces {
		settle(s)
	}
	for _, ix := range t.indexes {
		for _, s := range ix.buckets {
			settle(s)
		}
	}
}

// refile moves k from the values it was filed under to those it is filed under now; before and after are its object
// then and now, nil for none.
func (ix *index) refile(k object.Key, before, after object.Object, was, is []string) {
	for _, s := range ix.summaries {
		s.refile(before, after, was, is)
	}
	for _, v := range was {
		if slices.Contains(is, v) {
			continue
		}
		if ix.buckets[v].remove(k) {
			delete(ix.buckets, v)
		}
	}
	for _, v := range is {
		b := ix.buckets[v]
		if b == nil {
			b = newSet(ix.table)
			ix.buckets[v] = b
		}
		b.put(k, after, slices.Contains(was, v))
	}
}
