// Package managed keeps metadata.managedFields for writes that do not pass the HTTP handlers.
//
// It owns a cheaper way to upstream's answer, not an answer of its own. The field manager's
// result of an update depends on the managed fields there were, on who writes, and on which
// paths the write adds, changes or removes; not on the values. Controllers write the same shapes
// again and again, so the result is remembered under a hash of those three, found by comparing
// the live and the new object along the merge schema (a few microseconds), and only a shape not
// seen before goes to upstream's field manager (a few hundred). The tests hold the two against
// each other.
//
// It refuses server-side apply, which is rare in process and goes through the handlers.
package managed

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"

	"coracle/internal/apiserver/openapi"
)

// maxEntries is how many managers of plain updates upstream keeps apart before it merges the
// oldest ones, by time: from there on the answer depends on times, so nothing is remembered.
const maxEntries = 10

// maxRemembered bounds the remembered results of one kind; past it the memory starts anew.
const maxRemembered = 2048

// Target says what is written: a kind, through which subresource, and what that leaves untouched.
type Target struct {
	GVK         schema.GroupVersionKind
	Subresource string
	Resets      map[fieldpath.APIVersion]*fieldpath.Set
	// New makes an empty object.
	New func() runtime.Object
}

// Tracker keeps the managed fields of one target. It is safe for concurrent use.
type Tracker struct {
	target Target
	types  *openapi.Types
	scheme *runtime.Scheme
	now    func() time.Time

	once    sync.Once
	full    *managedfields.FieldManager
	compare walker
	empty   reflect.Value
	err     error

	mu         sync.RWMutex
	remembered map[question]result
}

// question is all that a result depends on.
type question struct {
	manager  string
	before   uint64
	paths    uint64
	creating bool
}

// result is what a write leaves in managedFields. Entries marked fresh get the time of the
// write, the others keep theirs.
type result struct {
	entries []metav1.ManagedFieldsEntry
	fresh   []bool
	// forms are the field sets that have literals in them, nil for the others.
	forms []*form
}

// NewTracker returns the tracker of a target; it prepares itself at its first use.
func NewTracker(target Target, types *openapi.Types, scheme *runtime.Scheme) *Tracker {
	return &Tracker{target: target, types: types, scheme: scheme, now: time.Now, remembered: map[question]result{}}
}

func (t *Tracker) prepare() {
	s, model, err := t.types.Schema(t.target.GVK)
	if err != nil {
		t.err = err
		return
	}
	var filter map[fieldpath.APIVersion]fieldpath.Filter
	if t.target.Resets != nil {
		filter = fieldpath.NewExcludeFilterSetMap(t.target.Resets)
	}
	hub := schema.GroupVersion{Group: t.target.GVK.Group, Version: runtime.APIVersionInternal}
	t.full, t.err = managedfields.NewDefaultFieldManager(t.types, runtime.UnsafeObjectConvertor(t.scheme),
		t.scheme, t.scheme, t.target.GVK, hub, t.target.Subresource, filter)
	if t.err != nil {
		return
	}
	t.empty = reflect.ValueOf(t.target.New()).Elem()
	c := &compiler{schema: s, done: map[compiled]*walker{}}
	t.compare, t.err = c.compile(t.empty.Type(), smdschema.TypeRef{NamedType: &model})
}

// Create records manager as the owner of what obj says, in obj.
func (t *Tracker) Create(obj runtime.Object, manager string) error {
	return t.track(nil, obj, manager)
}

// Update records in obj what manager changes against live. Both are only read otherwise, but for
// their kind, which may be set.
func (t *Tracker) Update(live, obj runtime.Object, manager string) error {
	return t.track(live, obj, manager)
}

func (t *Tracker) track(live, obj runtime.Object, manager string) error {
	t.once.Do(t.prepare)
	if t.err != nil {
		return fmt.Errorf("managed fields of %s: %w", t.target.GVK, t.err)
	}
	next, ok := obj.(metav1.Object)
	if !ok {
		return nil
	}
	given := next.GetManagedFields()
	var old []metav1.ManagedFieldsEntry
	before := t.empty
	if live != nil {
		before = reflect.ValueOf(live).Elem()
		if m, ok := live.(metav1.Object); ok {
			old = m.GetManagedFields()
		}
	}
	// What the writer sends counts, unless he sends none or writes a part.
	base := given
	if len(given) == 0 || t.target.Subresource != "" {
		base = old
	}
	var d diff
	t.compare(before, reflect.ValueOf(obj).Elem(), 0, &d)
	if d.odd || len(given) >= maxEntries || len(old) >= maxEntries {
		t.ask(live, obj, manager)
		return nil
	}
	q := question{manager: manager, before: mix(identity(given, d.literals), identity(old, d.literals)), paths: d.sum, creating: live == nil}
	t.mu.RLock()
	found, ok := t.remembered[q]
	t.mu.RUnlock()
	if ok {
		next.SetManagedFields(found.at(metav1.NewTime(t.now().UTC()), base, d.literals))
		return nil
	}
	t.ask(live, obj, manager)
	t.remember(q, next.GetManagedFields(), base, d.literals)
	return nil
}

// ask has upstream's field manager do it.
func (t *Tracker) ask(live, obj runtime.Object, manager string) {
	if live == nil {
		live = t.target.New()
	} else {
		live = live.DeepCopyObject()
	}
	t.full.UpdateNoErrors(live, obj, manager)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
}

// remember keeps a result. An entry is fresh when its time is not what it was.
func (t *Tracker) remember(q question, entries, base []metav1.ManagedFieldsEntry, literals []literal) {
	r := result{entries: slices.Clone(entries), fresh: make([]bool, len(entries)), forms: make([]*form, len(entries))}
	for i := range entries {
		e := &r.entries[i]
		if e.Time == nil {
			return
		}
		was := timeOf(e, base)
		r.fresh[i] = was == nil || !was.Equal(e.Time)
		if e.FieldsV1 != nil && len(literals) > 0 {
			r.forms[i] = formOf(e.FieldsV1.Raw, literals)
		}
	}
	q.manager = strings.Clone(q.manager)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.remembered) >= maxRemembered {
		clear(t.remembered)
	}
	t.remembered[q] = r
}

// at returns the entries for a write at a time. The slice is new, the fields in it are shared where
// no literals are in them.
func (r *result) at(now metav1.Time, base []metav1.ManagedFieldsEntry, literals []literal) []metav1.ManagedFieldsEntry {
	if len(r.entries) == 0 {
		return nil
	}
	out := slices.Clone(r.entries)
	for i := range out {
		if f := r.forms[i]; f != nil {
			out[i].FieldsV1 = f.fill(literals)
		}
		if r.fresh[i] {
			out[i].Time = &now
		} else if was := timeOf(&out[i], base); was != nil {
			out[i].Time = was
		}
	}
	slices.SortStableFunc(out, inOrder)
	return out
}

// inOrder is upstream's order of entries: by operation, time, manager, version, subresource.
func inOrder(p, q metav1.ManagedFieldsEntry) int {
	if c := strings.Compare(string(p.Operation), string(q.Operation)); c != 0 {
		return c
	}
	if c := seconds(p.Time) - seconds(q.Time); c != 0 {
		return int(min(max(c, -1), 1))
	}
	if c := strings.Compare(p.Manager, q.Manager); c != 0 {
		return c
	}
	if c := strings.Compare(p.APIVersion, q.APIVersion); c != 0 {
		return c
	}
	return strings.Compare(p.Subresource, q.Subresource)
}

func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// timeOf returns the time of the entry of the same manager in base.
func timeOf(e *metav1.ManagedFieldsEntry, base []metav1.ManagedFieldsEntry) *metav1.Time {
	for i := range base {
		x := &base[i]
		if x.Manager == e.Manager && x.Operation == e.Operation && x.APIVersion == e.APIVersion && x.Subresource == e.Subresource {
			return x.Time
		}
	}
	return nil
}

// identity hashes entries but for their times and the literals.
func identity(entries []metav1.ManagedFieldsEntry, literals []literal) uint64 {
	h := uint64(len(entries))
	for i := range entries {
		e := &entries[i]
		h = mix(h, hashString(e.Manager))
		h = mix(h, hashString(string(e.Operation)))
		h = mix(h, hashString(e.APIVersion))
		h = mix(h, hashString(e.Subresource))
		h = mix(h, hashString(e.FieldsType))
		if e.FieldsV1 != nil {
			h = mix(h, hashMarked(e.FieldsV1.Raw, literals))
		}
	}
	return h
}
