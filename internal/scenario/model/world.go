// Package model is a cluster's memory in miniature, for tests of planners: it is the object.Reader
// they read and it carries out their plans at once, as the API would.
//
// It owns names, UIDs, revisions, generations, preconditions and the two-step deletion of pods, all
// deterministic. It refuses everything that is not memory: no admission, no controllers of its own, no time that
// passes by itself. Tests play the scheduler and the node through Edit.
package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// World is one cluster. It is not safe for concurrent use.
type World struct {
	// Now is the world's clock; tests move it.
	Now time.Time
	// Hand names the controller whose plans are carried out; empty is a user.
	Hand string
	// Refuse, when set, is asked before each action; an answer that is not nil is the API's refusal.
	Refuse func(plan.Action) *metav1.Status

	tables  map[resource.Resource]*table
	indexes map[resource.Resource][]object.Index
	signs   map[resource.Resource][]plan.Sign
	seen    map[sighting]time.Duration
	// parted and deleting are what the watcher knows of objects that went.
	parted   map[sighting]plan.Parting
	deleting map[types.UID]string
	// awake is since when, on the steady clock, the world's watcher has been; set is by how much Now is ahead of that
	// clock, which began with the world.
	awake, set time.Duration
	began      time.Time
	revision   int
	names      int
	creations  map[string]int
}

// table holds one kind. Objects are immutable: a change puts a new one in place.
type table struct {
	objects map[object.Key]object.Object
	sorted  []object.Object
	filed   map[string][]object.Object
}

// New returns an empty world at an instant, that keeps the indexes of these controllers.
func New(now time.Time, controllers ...plan.Controller) *World {
	w := &World{Now: now, began: now, awake: -plan.Recall, tables: map[resource.Resource]*table{},
		signs: map[resource.Resource][]plan.Sign{}, seen: map[sighting]time.Duration{},
		parted: map[sighting]plan.Parting{}, deleting: map[types.UID]string{},
		indexes: map[resource.Resource][]object.Index{}, creations: map[string]int{}}
	for _, c := range controllers {
		for _, s := range c.Signs {
			w.signs[s.Resource] = append(w.signs[s.Resource], s)
		}
		for _, i := range c.Indexes {
			w.indexes[i.Resource] = append(w.indexes[i.Resource], i)
		}
	}
	return w
}

// Get implements object.Reader.
func (w *World) Get(res resource.Resource, namespace, name string) (object.Object, bool) {
	t := w.tables[res]
	if t == nil {
		return nil, false
	}
	o, ok := t.objects[object.Key{Namespace: namespace, Name: name}]
	return o, ok
}

// List implements object.Reader.
func (w *World) List(res resource.Resource, namespace string) []object.Object {
	t := w.tables[res]
	if t == nil {
		return nil
	}
	if namespace == "" {
		return t.all()
	}
	return slices.DeleteFunc(slices.Clone(t.all()), func(o object.Object) bool { return o.GetNamespace() != namespace })
}

// Indexed implements object.Reader.
func (w *World) Indexed(res resource.Resource, index, value string) []object.Object {
	t := w.tables[res]
	if t == nil {
		return nil
	}
	if t.filed == nil {
		t.filed = map[string][]object.Object{}
		for _, o := range t.all() {
			for _, place := range w.places(res, o) {
				t.filed[place] = append(t.filed[place], o)
			}
		}
	}
	return t.filed[index+"\x00"+value]
}

func (w *World) places(res resource.Resource, o object.Object) []string {
	var places []string
	controlled := false
	for _, ref := range o.GetOwnerReferences() {
		places = append(places, object.ByOwner+"\x00"+string(ref.UID))
		if ref.Controller != nil && *ref.Controller {
			controlled = true
			places = append(places, object.ByController+"\x00"+string(ref.UID))
		}
	}
	if !controlled {
		places = append(places, object.ByOrphan+"\x00"+o.GetNamespace())
	}
	for _, i := range w.indexes[res] {
		for _, v := range i.Values(o) {
			places = append(places, i.Name+"\x00"+v)
		}
	}
	return places
}

func (t *table) all() []object.Object {
	if t.sorted == nil {
		for _, o := range t.objects {
			t.sorted = append(t.sorted, o)
		}
		slices.SortFunc(t.sorted, func(a, b object.Object) int {
			return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
		})
	}
	return t.sorted
}

func (w *World) store(res resource.Resource, o object.Object) {
	t := w.tables[res]
	if t == nil {
		t = &table{objects: map[object.Key]object.Object{}}
		w.tables[res] = t
	}
	w.revision++
	o.SetResourceVersion(strconv.Itoa(w.revision))
	w.witness(res, t.objects[object.KeyOf(o)], o)
	t.objects[object.KeyOf(o)] = o
	t.sorted, t.filed = nil, nil
}

// Put creates or replaces an object as a user would, whole, status included. What the API would
// fill in is filled in: namespace "default", UID, creation time, generation, the UIDs of owners that are
// named without, and the defaults that planners rely on. It returns the stored object.
func (w *World) Put(o object.Object) object.Object {
	o = o.DeepCopyObject().(object.Object)
	res := resource.Of(o)
	if res.Namespaced && o.GetNamespace() == "" {
		o.SetNamespace("default")
	}
	setDefaults(o)
	w.nameOwners(o)
	if old, ok := w.Get(res, o.GetNamespace(), o.GetName()); ok {
		o.SetUID(old.GetUID())
		o.SetCreationTimestamp(old.GetCreationTimestamp())
		o.SetGeneration(nextGeneration(old, o))
	} else {
		w.identify(res, o)
	}
	w.store(res, o)
	return o
}

// identify gives a new object its identity.
func (w *World) identify(res resource.Resource, o object.Object) {
	if o.GetUID() == "" {
		id := strings.ToLower(res.Kind) + "-" + o.GetName()
		w.creations[id]++
		if n := w.creations[id]; n > 1 {
			id += "#" + strconv.Itoa(n)
		}
		o.SetUID(types.UID(id))
	}
	if born := o.GetCreationTimestamp(); born.IsZero() {
		o.SetCreationTimestamp(metav1.Time{Time: w.Now})
	}
	o.SetGeneration(max(1, o.GetGeneration()))
}

func (w *World) nameOwners(o object.Object) {
	refs := o.GetOwnerReferences()
	for i := range refs {
		if refs[i].UID != "" {
			continue
		}
		for res := range w.tables {
			if owner, ok := w.Get(res, o.GetNamespace(), refs[i].Name); ok && res.Kind == refs[i].Kind {
				refs[i].UID = owner.GetUID()
				refs[i].APIVersion = res.GVK().GroupVersion().String()
			}
		}
	}
	o.SetOwnerReferences(refs)
}

// Edit changes an object in place, as another writer would, and reports whether it was there.
func Edit[T object.Object](w *World, namespace, name string, change func(T)) bool {
	var zero T
	old, ok := w.Get(resource.Of(zero), namespace, name)
	if !ok {
		return false
	}
	o := old.DeepCopyObject().(T)
	change(o)
	o.SetGeneration(nextGeneration(old, o))
	w.store(resource.Of(o), o)
	return true
}

// Remove makes an object vanish, whatever its finalizers say, and reports whether it was there.
func (w *World) Remove(res resource.Resource, namespace, name string) bool {
	o, ok := w.Get(res, namespace, name)
	if !ok {
		return false
	}
	w.parted[sighting{res, object.KeyOf(o)}] = plan.Parting{UID: o.GetUID(), At: w.steady(), By: w.deleting[o.GetUID()]}
	t := w.tables[res]
	delete(t.objects, object.Key{Namespace: namespace, Name: name})
	t.sorted, t.filed = nil, nil
	w.revision++
	return true
}

// Collect removes, as the garbage collector would, every object whose owners are all gone, until
// none is left. Pods that run on a node only begin to terminate. It returns how many it removed.
func (w *World) Collect() int {
	for count := 0; ; {
		before := count
		alive := map[types.UID]bool{}
		for _, t := range w.tables {
			for _, o := range t.objects {
				alive[o.GetUID()] = true
			}
		}
		for _, res := range w.kinds() {
			for _, o := range slices.Clone(w.tables[res].all()) {
				refs := o.GetOwnerReferences()
				orphaned := len(refs) > 0 && !slices.ContainsFunc(refs, func(r metav1.OwnerReference) bool { return alive[r.UID] })
				if orphaned && o.GetDeletionTimestamp() == nil {
					w.delete(res, o, nil)
					count++
				}
			}
		}
		if count == before {
			return count
		}
	}
}

// kinds returns the kinds that have ever had an object, in a stable order.
func (w *World) kinds() []resource.Resource {
	kinds := slices.Collect(maps.Keys(w.tables))
	slices.SortFunc(kinds, func(a, b resource.Resource) int { return cmp.Compare(a.String(), b.String()) })
	return kinds
}

func nextGeneration(old, o object.Object) int64 {
	if sameSpec(old, o) {
		return old.GetGeneration()
	}
	return old.GetGeneration() + 1
}

// sameSpec compares what a generation counts: the spec, and a Deployment's annotations too.
func sameSpec(a, b object.Object) bool {
	if _, ok := a.(*appsv1.Deployment); ok && !maps.Equal(a.GetAnnotations(), b.GetAnnotations()) {
		return false
	}
	return equality.Semantic.DeepEqual(part(a, "spec"), part(b, "spec"))
}

// part returns one top-level field of an object in its JSON form.
func part(o object.Object, field string) any {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(fmt.Sprintf("model: encode %T: %v", o, err))
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		panic(fmt.Sprintf("model: decode %T: %v", o, err))
	}
	return fields[field]
}

// setDefaults fills in what the API would and planners rely on (apps/v1 and core/v1 defaults).
func setDefaults(o object.Object) {
	one := int32(1)
	switch o := o.(type) {
	case *appsv1.Deployment:
		s := &o.Spec
		s.Replicas = cmp.Or(s.Replicas, &one)
		s.Strategy.Type = cmp.Or(s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
		s.ProgressDeadlineSeconds = cmp.Or(s.ProgressDeadlineSeconds, new(int32(600)))
		s.RevisionHistoryLimit = cmp.Or(s.RevisionHistoryLimit, new(int32(10)))
	case *appsv1.ReplicaSet:
		o.Spec.Replicas = cmp.Or(o.Spec.Replicas, &one)
	case *corev1.ReplicationController:
		o.Spec.Replicas = cmp.Or(o.Spec.Replicas, &one)
	case *appsv1.StatefulSet:
		o.Spec.Replicas = cmp.Or(o.Spec.Replicas, &one)
		o.Spec.RevisionHistoryLimit = cmp.Or(o.Spec.RevisionHistoryLimit, new(int32(10)))
		o.Spec.PodManagementPolicy = cmp.Or(o.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
		o.Spec.UpdateStrategy.Type = cmp.Or(o.Spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	case *appsv1.DaemonSet:
		o.Spec.RevisionHistoryLimit = cmp.Or(o.Spec.RevisionHistoryLimit, new(int32(10)))
		o.Spec.UpdateStrategy.Type = cmp.Or(o.Spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	case *corev1.Pod:
		o.Status.Phase = cmp.Or(o.Status.Phase, corev1.PodPending)
	}
}
