// Package fake is a cluster in memory behind client.Interface, for tests and for the simulator.
//
// It owns honest object life: one revision counter, conflicts, generated names, generations,
// graceful deletion, finalizers, propagation policies, the status subresource, evictions by budget, and watches that
// resume or are too old. It is deterministic: names and UIDs come from a counter, times from the
// clock it is given. It refuses defaulting and validation, which are the API server's, and leaves admission to Admit.
package fake

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// Entry is one change in the cluster's history.
type Entry struct {
	Revision uint64
	Type     watch.EventType
	Resource resource.Resource
	// Object is the object after the change, or its last state when deleted; Before is nil when
	// it was created.
	Object, Before object.Object
}

// Cluster is a cluster in memory. Create one with New.
type Cluster struct {
	// Now tells the time for timestamps.
	Now func() time.Time
	// Fail, when set, is asked before each call, writes and reads; an error is the call's answer.
	// The verb is the API's: get, list, watch, create, update, patch, delete.
	Fail func(verb string, ref object.Ref, subresource string) error

	// Admit, when set, is asked before each create and update (verbs "create" and "update"; old is nil for a create),
	// subresources aside; an error is the call's answer. It is called without the cluster's lock, so that it may
	// read the cluster; obj is what is to be stored, and it must not change it.
	Admit func(verb string, obj, old object.Object) error

	// Steady has generated names and UIDs depend only on what was made before under the same prefix and name: writes
	// that do not concern each other leave the same cluster in whichever order they come.
	Steady bool

	mu       sync.Mutex
	objects  map[resource.Resource]map[object.Key]object.Object
	revision uint64
	serial   uint64
	// serials count for Steady, by kind and name or prefix.
	serials map[string]uint64
	// log holds the changes after revision compacted; grown is closed and replaced when it grows.
	log       []Entry
	compacted uint64
	grown     chan struct{}
	calls     map[string]int
}

var _ client.Interface = (*Cluster)(nil)

// New returns an empty cluster at revision 1 that tells the wall's time.
func New() *Cluster {
	return &Cluster{
		Now:      time.Now,
		objects:  map[resource.Resource]map[object.Key]object.Object{},
		revision: 1,
		grown:    make(chan struct{}),
		calls:    map[string]int{},
	}
}

// Revision is the revision of the latest write.
func (c *Cluster) Revision() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revision
}

// Calls counts calls answered so far by verb, such as "create" or "update/status".
func (c *Cluster) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// Since returns the history after a revision, and false when it is no longer held.
func (c *Cluster) Since(revision uint64) ([]Entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since(revision)
}

func (c *Cluster) since(revision uint64) ([]Entry, bool) {
	if revision < c.compacted {
		return nil, false
	}
	at, _ := slices.BinarySearchFunc(c.log, revision+1, func(e Entry, r uint64) int { return int(int64(e.Revision) - int64(r)) })
	return c.log[at:len(c.log):len(c.log)], true
}

// Compact forgets the history up to now: a watch from before it is answered 410 Gone.
func (c *Cluster) Compact() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compacted, c.log = c.revision, nil
}

// Fork returns a cluster of its own that begins as this one is now, with no history: a watch on
// it begins with a list. The clock is shared until it is set anew; Fail and Admit are not.
func (c *Cluster) Fork() *Cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := New()
	f.Now, f.revision, f.serial, f.compacted = c.Now, c.revision, c.serial, c.revision
	for res, table := range c.objects {
		f.objects[res] = maps.Clone(table)
	}
	return f
}

// Load puts objects in as they are, identity and status included, as another cluster's: for
// rehearsals. It is an error of the caller to load into a cluster that is being watched.
func (c *Cluster) Load(objects ...object.Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range objects {
		c.table(resource.Of(o))[object.KeyOf(o)] = o
		if rev, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64); err == nil {
			c.revision = max(c.revision, rev)
		}
		// Objects of another such cluster keep their UIDs, which must not be given again.
		if n, err := strconv.ParseUint(strings.TrimPrefix(string(o.GetUID()), uidPrefix), 16, 64); err == nil && strings.HasPrefix(string(o.GetUID()), uidPrefix) {
			c.serial = max(c.serial, n)
		}
	}
	c.compacted, c.log = c.revision, nil
}

// begin counts a call and asks Fail.
func (c *Cluster) begin(ctx context.Context, verb string, ref object.Ref, subresource string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.Fail != nil {
		if err := c.Fail(verb, ref, subresource); err != nil {
			return err
		}
	}
	if subresource != "" {
		verb += "/" + subresource
	}
	c.mu.Lock()
	c.calls[verb]++
	c.mu.Unlock()
	return nil
}

func (c *Cluster) table(res resource.Resource) map[object.Key]object.Object {
	t := c.objects[res]
	if t == nil {
		t = map[object.Key]object.Object{}
		c.objects[res] = t
	}
	return t
}

func (c *Cluster) find(ref object.Ref) (object.Object, error) {
	o, ok := c.objects[ref.Resource][ref.Key]
	if !ok {
		return nil, apierrors.NewNotFound(ref.Resource.GroupResource(), ref.Name)
	}
	return o, nil
}

// commit stores obj (removes it when gone) at a new revision and tells the watchers.
func (c *Cluster) commit(res resource.Resource, obj object.Object, before object.Object, gone bool) object.Object {
	c.revision++
	obj.SetResourceVersion(strconv.FormatUint(c.revision, 10))
	e := Entry{Revision: c.revision, Type: watch.Modified, Resource: res, Object: obj, Before: before}
	switch {
	case gone:
		e.Type = watch.Deleted
		delete(c.table(res), object.KeyOf(obj))
	case before == nil:
		e.Type = watch.Added
		fallthrough
	default:
		c.table(res)[object.KeyOf(obj)] = obj
	}
	c.log = append(c.log, e)
	close(c.grown)
	c.grown = make(chan struct{})
	return obj
}

func (c *Cluster) timestamp() metav1.Time { return metav1.NewTime(c.Now().Truncate(time.Second)) }

// Get implements client.Interface.
func (c *Cluster) Get(ctx context.Context, res resource.Resource, namespace, name string) (object.Object, error) {
	ref := object.Ref{Resource: res, Key: object.Key{Namespace: namespace, Name: name}}
	if err := c.begin(ctx, "get", ref, ""); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(ref)
}

// List implements client.Interface.
func (c *Cluster) List(ctx context.Context, res resource.Resource, opts client.ListOptions) ([]object.Object, string, error) {
	if err := c.begin(ctx, "list", object.Ref{Resource: res}, ""); err != nil {
		return nil, "", err
	}
	match, err := selector(opts)
	if err != nil {
		return nil, "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []object.Object
	for _, o := range c.objects[res] {
		if match(o) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b object.Object) int {
		return strings.Compare(a.GetNamespace()+"\x00"+a.GetName(), b.GetNamespace()+"\x00"+b.GetName())
	})
	return out, strconv.FormatUint(c.revision, 10), nil
}

// uidPrefix begins the UIDs that are given here.
const uidPrefix = "00000000-0000-4000-8000-"

const suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"

// suffix spells n in five letters of the API's alphabet, scattered so that names do not sort by age.
func suffix(n uint64) string {
	x := n * 0x9E3779B97F4A7C15
	b := make([]byte, 5)
	for i := range b {
		b[i] = suffixAlphabet[x%uint64(len(suffixAlphabet))]
		x /= uint64(len(suffixAlphabet))
	}
	return string(b)
}

// count numbers what is made: one row of numbers for all, or where they are Steady for each kind and name.
func (c *Cluster) count(ref object.Ref, name string) uint64 {
	if !c.Steady {
		c.serial++
		return c.serial
	}
	if c.serials == nil {
		c.serials = map[string]uint64{}
	}
	key := ref.Resource.Plural + "/" + ref.Namespace + "/" + name
	c.serials[key]++
	return c.serials[key]
}

func (c *Cluster) uid(ref object.Ref, name string) types.UID {
	n := c.count(ref, name)
	if !c.Steady {
		return types.UID(fmt.Sprintf("%s%012x", uidPrefix, n))
	}
	return types.UID(fmt.Sprintf("%s-%s-%s-%d", ref.Resource.Plural, ref.Namespace, name, n))
}

// Create implements client.Interface.
func (c *Cluster) Create(ctx context.Context, obj object.Object) (object.Object, error) {
	ref := object.Ref{Resource: resource.Of(obj), Key: object.KeyOf(obj)}
	if err := c.begin(ctx, "create", ref, ""); err != nil {
		return nil, err
	}
	if c.Admit != nil {
		if err := c.Admit("create", obj, nil); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	obj = obj.DeepCopyObject().(object.Object)
	for obj.GetName() == "" {
		if obj.GetGenerateName() == "" {
			return nil, apierrors.NewBadRequest("name or generateName is required")
		}
		name := obj.GetGenerateName() + suffix(c.count(ref, obj.GetGenerateName()+"*"))
		if _, taken := c.objects[ref.Resource][object.Key{Namespace: obj.GetNamespace(), Name: name}]; !taken {
			obj.SetName(name)
		}
	}
	if obj.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	if _, exists := c.objects[ref.Resource][object.KeyOf(obj)]; exists {
		return nil, apierrors.NewAlreadyExists(ref.Resource.GroupResource(), obj.GetName())
	}
	if err := c.admitNamespace(ref.Resource, obj); err != nil {
		return nil, err
	}
	obj.SetUID(c.uid(ref, obj.GetName()))
	obj.SetCreationTimestamp(c.timestamp())
	obj.SetDeletionTimestamp(nil)
	if hasSpec(obj) {
		obj.SetGeneration(1)
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceActive
		ns.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
	}
	return c.commit(ref.Resource, obj, nil, false), nil
}

// admitNamespace refuses new content in a namespace that is being deleted, as the API's
// NamespaceLifecycle admission does. A namespace that is not there at all is let pass: tests
// rarely make one.
func (c *Cluster) admitNamespace(res resource.Resource, obj object.Object) error {
	ns, ok := c.objects[resource.Namespaces][object.Key{Name: obj.GetNamespace()}]
	if !res.Namespaced || !ok || ns.GetDeletionTimestamp() == nil {
		return nil
	}
	err := apierrors.NewForbidden(res.GroupResource(), obj.GetName(),
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", obj.GetNamespace()))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", obj.GetNamespace()), Field: "metadata.namespace",
	})
	return err
}

// Update implements client.Interface.
func (c *Cluster) Update(ctx context.Context, obj object.Object, subresource string) (object.Object, error) {
	ref := object.RefOf(obj)
	if err := c.begin(ctx, "update", ref, subresource); err != nil {
		return nil, err
	}
	if err := c.admitUpdate(ref, obj, subresource); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.update(ref, obj.DeepCopyObject().(object.Object), subresource)
}

// admitUpdate asks Admit about an update of an object that exists.
func (c *Cluster) admitUpdate(ref object.Ref, obj object.Object, subresource string) error {
	if c.Admit == nil || subresource != "" {
		return nil
	}
	c.mu.Lock()
	old, err := c.find(ref)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.Admit("update", obj, old)
}

// update owns obj.
func (c *Cluster) update(ref object.Ref, obj object.Object, subresource string) (object.Object, error) {
	before, err := c.find(ref)
	if err != nil {
		return nil, err
	}
	if uid := obj.GetUID(); uid != "" && uid != before.GetUID() {
		return nil, conflict(ref, fmt.Sprintf("Precondition failed: UID in precondition: %s, UID in object meta: %s", uid, before.GetUID()))
	}
	if rv := obj.GetResourceVersion(); rv != "" && rv != before.GetResourceVersion() {
		return nil, conflict(ref, "the object has been modified; please apply your changes to the latest version and try again")
	}
	switch subresource {
	case "":
		keepMeta(obj, before)
		copyField(obj, before, "Status")
		if hasSpec(obj) && !equalField(obj, before, "Spec") {
			obj.SetGeneration(before.GetGeneration() + 1)
		}
	case "status":
		status := obj
		obj = before.DeepCopyObject().(object.Object)
		copyField(obj, status, "Status")
		if _, ok := obj.(*appsv1.Deployment); ok {
			// The API lets a Deployment's status carry annotations, where its revision is told.
			obj.SetAnnotations(maps.Clone(status.GetAnnotations()))
		}
	case "finalize":
		ns, ok := obj.(*corev1.Namespace)
		if !ok {
			return nil, apierrors.NewBadRequest("only namespaces have a finalize subresource")
		}
		next := before.DeepCopyObject().(*corev1.Namespace)
		next.Spec.Finalizers = ns.Spec.Finalizers
		obj = next
	default:
		return nil, apierrors.NewBadRequest("no such subresource: " + subresource)
	}
	obj.SetResourceVersion(before.GetResourceVersion())
	if apiequality.Semantic.DeepEqual(obj, before) {
		return before, nil
	}
	return c.commit(ref.Resource, obj, before, deletable(obj)), nil
}

// deletable says whether nothing keeps a deleted object any longer.
func deletable(obj object.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		return len(ns.Spec.Finalizers) == 0
	}
	grace := obj.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

func conflict(ref object.Ref, why string) error {
	return apierrors.NewConflict(ref.Resource.GroupResource(), ref.Name, fmt.Errorf("%s", why))
}

// keepMeta restores what an update may not change.
func keepMeta(obj, before object.Object) {
	obj.SetUID(before.GetUID())
	obj.SetCreationTimestamp(before.GetCreationTimestamp())
	obj.SetDeletionTimestamp(before.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(before.GetDeletionGracePeriodSeconds())
	obj.SetGeneration(before.GetGeneration())
	obj.SetGenerateName(before.GetGenerateName())
}

func field(obj object.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

func hasSpec(obj object.Object) bool { return field(obj, "Spec").IsValid() }

func equalField(a, b object.Object, name string) bool {
	return apiequality.Semantic.DeepEqual(field(a, name).Interface(), field(b, name).Interface())
}

func copyField(to, from object.Object, name string) {
	if f := field(to, name); f.IsValid() {
		f.Set(field(from.DeepCopyObject().(object.Object), name))
	}
}
