package model

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/plan"
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
	// Told are the Failed events of the action refused.
	Told []plan.Event
}

// Apply carries out a plan: its actions in order up to the first refusal, then its status.
func (w *World) Apply(p plan.Plan) Outcome {
	var out Outcome
	for _, a := range p.Actions {
		out.Writes++
		name, err := w.act(a)
		done, failed := tellings(a)
		if err != nil {
			out.Failure = &plan.Failure{Action: a, Status: *err, At: w.Now, Times: 1}
			if failed != nil {
				out.Told = append(out.Told, failed.Fill(name, err.Message))
			}
			break
		}
		if done != nil {
			out.Events = append(out.Events, done.Fill(name, ""))
		}
	}
	if p.Status != nil {
		out.Writes++
		w.statusAfter(p)
	}
	out.Events = append(append(out.Events, out.Told...), p.Events...)
	return out
}

func tellings(a plan.Action) (done, failed *plan.Event) {
	switch a := a.(type) {
	case plan.Create:
		return a.Done, a.Failed
	case plan.Update:
		return a.Done, a.Failed
	case plan.Delete:
		return a.Done, a.Failed
	case plan.Evict:
		return a.Done, a.Failed
	}
	return nil, nil
}

func (w *World) act(a plan.Action) (name string, refusal *metav1.Status) {
	if w.Refuse != nil {
		if s := w.Refuse(a); s != nil {
			return a.Target().Name, s
		}
	}
	switch a := a.(type) {
	case plan.Create:
		return w.create(a.Object)
	case plan.Update:
		return a.Object.GetName(), w.update(a)
	case plan.Delete:
		if w.anyAlive(a.IfAbsent) {
			return a.Object.Name, nil
		}
		return a.Object.Name, w.deleteRef(a.Object, a.ResourceVersion, a.GraceSeconds)
	case plan.Evict:
		return a.Pod.Name, w.deleteRef(a.Pod, "", nil)
	}
	panic(fmt.Sprintf("model: action %T", a))
}

// anyAlive reports whether one of the objects exists, with that UID where one is given.
func (w *World) anyAlive(refs []plan.Ref) bool {
	return slices.ContainsFunc(refs, func(ref plan.Ref) bool {
		o, ok := w.Get(ref.Resource, ref.Namespace, ref.Name)
		return ok && (ref.UID == "" || o.GetUID() == ref.UID)
	})
}

func (w *World) create(object plan.Object) (string, *metav1.Status) {
	o := object.DeepCopyObject().(plan.Object)
	res := resource.Of(o)
	if o.GetName() == "" {
		w.names++
		o.SetName(o.GetGenerateName() + suffix(w.names))
	}
	if _, exists := w.Get(res, o.GetNamespace(), o.GetName()); exists {
		return o.GetName(), refuse(apierrors.NewAlreadyExists(res.GroupResource(), o.GetName()))
	}
	setDefaults(o)
	w.bear(res, o)
	w.store(res, o)
	return o.GetName(), nil
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

func (w *World) update(a plan.Update) *metav1.Status {
	res := resource.Of(a.Object)
	if a.Provided != nil {
		o, ok := w.Get(a.Provided.Resource, a.Provided.Namespace, a.Provided.Name)
		if !ok || o.GetUID() != a.Provided.UID || o.GetDeletionTimestamp() != nil {
			return nil
		}
	}
	if w.anyAlive(a.IfAbsent) {
		return nil
	}
	old, ok := w.Get(res, a.Object.GetNamespace(), a.Object.GetName())
	if !ok || old.GetUID() != a.Object.GetUID() {
		return refuse(apierrors.NewNotFound(res.GroupResource(), a.Object.GetName()))
	}
	if v := a.Object.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return refuse(apierrors.NewConflict(res.GroupResource(), a.Object.GetName(), fmt.Errorf("the object has been modified")))
	}
	if a.Subresource == "status" {
		return w.writeStatus(a.Object)
	}
	o := a.Object.DeepCopyObject().(plan.Object)
	copyField(o, old, "Status")
	if equality.Semantic.DeepEqual(old, o) {
		return nil
	}
	o.SetGeneration(nextGeneration(old, o))
	w.store(res, o)
	if o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0 && res != resource.Pods {
		w.Remove(res, o.GetNamespace(), o.GetName())
	}
	return nil
}

// statusAfter writes a plan's status after its actions. As the shell does, it allows for what the plan
// itself has changed of the primary, and leaves a status that somebody else has overtaken to the next plan.
func (w *World) statusAfter(p plan.Plan) {
	next := p.Status
	for _, a := range p.Actions {
		if u, ok := a.(plan.Update); ok && plan.RefOf(u.Object) == plan.RefOf(next) {
			next = next.DeepCopyObject().(plan.Object)
			next.SetResourceVersion("")
		}
	}
	w.writeStatus(next)
}

// writeStatus writes the status and, as upstream's status strategies allow, the annotations.
func (w *World) writeStatus(object plan.Object) *metav1.Status {
	res := resource.Of(object)
	old, ok := w.Get(res, object.GetNamespace(), object.GetName())
	if !ok || old.GetUID() != object.GetUID() {
		return refuse(apierrors.NewNotFound(res.GroupResource(), object.GetName()))
	}
	if v := object.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return refuse(apierrors.NewConflict(res.GroupResource(), object.GetName(), fmt.Errorf("the object has been modified")))
	}
	o := old.DeepCopyObject().(plan.Object)
	copyField(o, object.DeepCopyObject().(plan.Object), "Status")
	o.SetAnnotations(object.GetAnnotations())
	if !equality.Semantic.DeepEqual(old, o) {
		w.store(res, o)
	}
	return nil
}

// copyField copies a field of a struct where both have it (kinds without a status do not).
func copyField(to, from plan.Object, field string) {
	dst := reflect.ValueOf(to).Elem().FieldByName(field)
	if dst.IsValid() {
		dst.Set(reflect.ValueOf(from).Elem().FieldByName(field))
	}
}

func (w *World) deleteRef(ref plan.Ref, version string, grace *int64) *metav1.Status {
	o, ok := w.Get(ref.Resource, ref.Namespace, ref.Name)
	if !ok {
		return refuse(apierrors.NewNotFound(ref.Resource.GroupResource(), ref.Name))
	}
	if ref.UID != "" && ref.UID != o.GetUID() {
		return refuse(apierrors.NewConflict(ref.Resource.GroupResource(), ref.Name,
			fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s)", ref.UID, o.GetUID())))
	}
	if version != "" && version != o.GetResourceVersion() {
		return refuse(apierrors.NewConflict(ref.Resource.GroupResource(), ref.Name, fmt.Errorf("the object has been modified")))
	}
	if w.Hand != "" && o.GetDeletionTimestamp() == nil {
		w.deleting[o.GetUID()] = w.Hand
	}
	w.delete(ref.Resource, o, grace)
	return nil
}

// delete removes an object, or marks it when something must happen first: a finalizer, or the
// node that has to stop a pod.
func (w *World) delete(res resource.Resource, old plan.Object, grace *int64) {
	pod, isPod := old.(*corev1.Pod)
	graceful := isPod && pod.Spec.NodeName != "" && !slices.Contains([]corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed}, pod.Status.Phase)
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
	o := old.DeepCopyObject().(plan.Object)
	o.SetDeletionTimestamp(&metav1.Time{Time: w.Now.Add(time.Duration(seconds) * time.Second)})
	o.SetDeletionGracePeriodSeconds(&seconds)
	w.store(res, o)
}

func refuse(err *apierrors.StatusError) *metav1.Status { return &err.ErrStatus }
