package model

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// Outcome is what came of a plan.
type Outcome struct {
	// Writes counts the objects created, changed or deleted; a write that changes nothing is counted too, because
	// a planner at rest must not even try.
	Writes int
	// Events are those that were told, in order.
	Events []plan.Event
	// Failure is the action that was refused, if any.
	Failure *plan.Failure
}

// Apply carries out a plan that stays as it is when an action is refused. An answer that usually means an old snapshot
// counts as a failure at once.
func (w *World) Apply(p plan.Plan) Outcome {
	task := loop.Task{Controller: &plan.Controller{Name: w.Hand}, Tries: loop.QuietTries + 1}
	return w.Carry(loop.Begin(task, func(loop.Task) loop.Decision { return loop.Decision{Plan: p, Exists: true} }))
}

// Carry carries a pass out to its end.
func (w *World) Carry(run *loop.Pass) Outcome {
	writes := 0
	for step := run.Next(); !step.Over(); step = run.Next() {
		var results []loop.Result
		for _, a := range step.Actions {
			o, err := w.Act(a)
			results = append(results, loop.Result{Object: o, Err: err})
		}
		if step.Status != nil {
			o, err := w.writeStatus(step.Status)
			results = append(results, loop.Result{Object: o, Err: err})
		}
		writes += len(results)
		run.Done(results, w.Now)
	}
	return Outcome{Writes: writes, Events: run.Events(), Failure: run.Failure()}
}

// Act carries one action out. It returns the object as the action left it, nil where a guard passed it over.
func (w *World) Act(a plan.Action) (object.Object, error) {
	if w.Refuse != nil {
		if s := w.Refuse(a); s != nil {
			return nil, &apierrors.StatusError{ErrStatus: *s}
		}
	}
	switch a := a.(type) {
	case plan.Create:
		return w.create(a.Object)
	case plan.Update:
		if ok, _ := plan.Hold(lookup{w}, a.When); !ok {
			return nil, nil
		}
		return w.update(a)
	case plan.Delete:
		if ok, _ := plan.Hold(lookup{w}, a.When); !ok {
			return nil, nil
		}
		return w.deleteRef(a.Object, a.ResourceVersion, a.GraceSeconds)
	case plan.Evict:
		return w.deleteRef(a.Pod, "", nil)
	}
	panic(fmt.Sprintf("model: action %T", a))
}

// lookup asks the world for guards; it cannot fail.
type lookup struct{ *World }

// Find implements plan.Lookup.
func (l lookup) Find(res resource.Resource, key object.Key) (object.Object, error) {
	if o, ok := l.Get(res, key.Namespace, key.Name); ok {
		return o, nil
	}
	return nil, nil
}

// All implements plan.Lookup.
func (l lookup) All(res resource.Resource, namespace string) ([]object.Object, error) {
	return l.List(res, namespace), nil
}

func (w *World) create(wanted object.Object) (object.Object, error) {
	o := wanted.DeepCopyObject().(object.Object)
	res := resource.Of(o)
	if o.GetName() == "" {
		w.names++
		o.SetName(o.GetGenerateName() + suffix(w.names))
	}
	if _, exists := w.Get(res, o.GetNamespace(), o.GetName()); exists {
		return nil, apierrors.NewAlreadyExists(res.GroupResource(), o.GetName())
	}
	setDefaults(o)
	w.identify(res, o)
	w.store(res, o)
	return o, nil
}

// suffix spells n in five letters of the API's alphabet for generated names.
func suffix(n int) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	var b [5]byte
	for i := range b {
		b[len(b)-1-i] = letters[n%len(letters)]
		n /= len(letters)
	}
	return string(b[:])
}

func (w *World) update(a plan.Update) (object.Object, error) {
	res := resource.Of(a.Object)
	old, ok := w.Get(res, a.Object.GetNamespace(), a.Object.GetName())
	if !ok || old.GetUID() != a.Object.GetUID() {
		return nil, apierrors.NewNotFound(res.GroupResource(), a.Object.GetName())
	}
	if v := a.Object.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return nil, modified(old)
	}
	if a.Subresource == "status" {
		return w.writeStatus(a.Object)
	}
	o := a.Object.DeepCopyObject().(object.Object)
	copyField(o, old, "Status")
	if equality.Semantic.DeepEqual(old, o) {
		return old, nil
	}
	o.SetGeneration(nextGeneration(old, o))
	w.store(res, o)
	if o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0 && res != resource.Pods {
		w.Remove(res, o.GetNamespace(), o.GetName())
	}
	return o, nil
}

func modified(o object.Object) error {
	return apierrors.NewConflict(resource.Of(o).GroupResource(), o.GetName(), errors.New("the object has been modified"))
}

// writeStatus writes the status and, as upstream's status strategies allow, the annotations.
func (w *World) writeStatus(changed object.Object) (object.Object, error) {
	res := resource.Of(changed)
	old, ok := w.Get(res, changed.GetNamespace(), changed.GetName())
	if !ok || old.GetUID() != changed.GetUID() {
		return nil, apierrors.NewNotFound(res.GroupResource(), changed.GetName())
	}
	if v := changed.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return nil, modified(old)
	}
	o := old.DeepCopyObject().(object.Object)
	copyField(o, changed.DeepCopyObject().(object.Object), "Status")
	o.SetAnnotations(changed.GetAnnotations())
	if equality.Semantic.DeepEqual(old, o) {
		return old, nil
	}
	w.store(res, o)
	return o, nil
}

// copyField copies a field of a struct where both have it (kinds without a status do not).
func copyField(to, from object.Object, field string) {
	dst := reflect.ValueOf(to).Elem().FieldByName(field)
	if dst.IsValid() {
		dst.Set(reflect.ValueOf(from).Elem().FieldByName(field))
	}
}

func (w *World) deleteRef(ref object.Ref, version string, grace *int64) (object.Object, error) {
	o, ok := w.Get(ref.Resource, ref.Namespace, ref.Name)
	if !ok {
		return nil, apierrors.NewNotFound(ref.Resource.GroupResource(), ref.Name)
	}
	if ref.UID != "" && ref.UID != o.GetUID() {
		return nil, apierrors.NewConflict(ref.Resource.GroupResource(), ref.Name,
			fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s)", ref.UID, o.GetUID()))
	}
	if version != "" && version != o.GetResourceVersion() {
		return nil, modified(o)
	}
	if w.Hand != "" && o.GetDeletionTimestamp() == nil {
		w.deleting[o.GetUID()] = w.Hand
	}
	w.delete(ref.Resource, o, grace)
	return o, nil
}

// delete removes an object, or marks it when something must happen first: a finalizer, or the
// node that has to stop a pod.
func (w *World) delete(res resource.Resource, old object.Object, grace *int64) {
	pod, isPod := old.(*corev1.Pod)
	graceful := isPod && pod.Spec.NodeName != "" && !podstate.Ended(pod)
	seconds := int64(0)
	if graceful {
		seconds = 30
		if pod.Spec.TerminationGracePeriodSeconds != nil {
			seconds = *pod.Spec.TerminationGracePeriodSeconds
		}
		if grace != nil {
			seconds = *grace
		}
	}
	if seconds == 0 && len(old.GetFinalizers()) == 0 {
		w.Remove(res, old.GetNamespace(), old.GetName())
		return
	}
	if old.GetDeletionTimestamp() != nil {
		return
	}
	o := old.DeepCopyObject().(object.Object)
	o.SetDeletionTimestamp(&metav1.Time{Time: w.Now.Add(time.Duration(seconds) * time.Second)})
	o.SetDeletionGracePeriodSeconds(&seconds)
	w.store(res, o)
}
