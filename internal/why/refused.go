package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
	"coracle/internal/quota/limits"
	"coracle/internal/resource"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/refusal"
)

// refused explains why the API does not take what a controller would make, from the object and from what is in the
// cluster now: the refusal itself is of some time ago. It returns nothing where the cluster does not show a cause, and the
// controller's own word then stands.
func (w *walk) refused(f *plan.Failure) []plan.Wait {
	create, ok := f.Action.(plan.Create)
	if !ok {
		return nil
	}
	wait := plan.Wait{Reason: failedCreate, Since: f.At}
	if pod, ok := create.Object.(*corev1.Pod); ok {
		if on, hint := w.lacking(pod); on.Name != "" {
			wait.Message = fmt.Sprintf("the API refuses the pod: %s", f.Status.Message)
			wait.On, wait.Hint = on, hint
			return []plan.Wait{wait}
		}
	}
	if on, err := w.bounded(create.Object); err != nil {
		w.stuck[spot{on.Resource, on.Key}] = true
		wait.Message, wait.On, wait.Hint = "the API refuses it: "+err.Error(), on, refusal.CauseHint(limits.Outside)
		return []plan.Wait{wait}
	}
	return w.charged(f, create.Object, wait)
}

// The reasons of refusals: one that lasts, and one that has nothing to last for.
const (
	failedCreate = "FailedCreate"
	triedAgain   = "TriedAgain"
)

// lacking names an object that a new pod must find, and that does not exist.
func (w *walk) lacking(pod *corev1.Pod) (object.Ref, string) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	on := object.Ref{Resource: resource.ServiceAccounts, Key: object.Key{Namespace: pod.Namespace, Name: account}}
	if _, ok := w.r.Get(on.Resource, on.Namespace, on.Name); !ok {
		return on, fmt.Sprintf("create the ServiceAccount (kubectl create serviceaccount %s -n %s), or name one that exists", account, pod.Namespace)
	}
	if class := pod.Spec.PriorityClassName; class != "" {
		on := object.Ref{Resource: resource.PriorityClasses, Key: object.Key{Name: class}}
		if _, ok := w.r.Get(on.Resource, "", class); !ok {
			return on, "create the PriorityClass, or name one that exists (kubectl get priorityclass)"
		}
	}
	return object.Ref{}, ""
}

// bounded names the limit range of its namespace that a new object is outside of, and says how.
func (w *walk) bounded(obj object.Object) (object.Ref, error) {
	obj = w.defaulted(obj)
	for _, o := range w.r.List(resource.LimitRanges, obj.GetNamespace()) {
		r, ok := o.(*corev1.LimitRange)
		if !ok {
			continue
		}
		var err error
		switch obj := obj.(type) {
		case *corev1.Pod:
			err = limits.CheckPod(r, obj)
		case *corev1.PersistentVolumeClaim:
			err = limits.CheckClaim(r, obj, nil)
		}
		if err != nil {
			return object.RefOf(r), err
		}
	}
	return object.Ref{}, nil
}

// charged asks the quotas of the namespace about an object that they refused.
func (w *walk) charged(f *plan.Failure, obj object.Object, wait plan.Wait) []plan.Wait {
	if _, ok := quota.RefusalOf(f.Status); !ok {
		return nil
	}
	obj = w.defaulted(obj)
	res, quotas := resource.Of(obj), w.quotas(obj.GetNamespace())
	_, err := quota.Bill(quotas, res, obj, nil, w.now)
	if err == nil {
		wait.Message = "there is room now for what the API refused: it is tried again without you (" + f.Status.Message + ")"
		wait.Reason = triedAgain
		return []plan.Wait{wait}
	}
	by, _ := quota.RefusalIn(err)
	name := by.Quota
	on := object.Ref{Resource: resource.ResourceQuotas, Key: object.Key{Namespace: obj.GetNamespace(), Name: name}}
	if ending := w.ending(res, obj.GetNamespace()); len(ending) > 0 {
		if _, err := quota.Bill(w.without(quotas, res, ending), res, obj, nil, w.now); err == nil {
			return w.untilGone(name, ending, wait)
		}
	}
	w.stuck[spot{on.Resource, on.Key}] = true
	wait.Message, wait.On, wait.Hint = "the API refused the last try: "+err.Error(), on, refusal.CauseHint(by.Cause)
	if more := raised(quotas, name, res, obj); more != "" {
		wait.Hint = fmt.Sprintf("raise the ResourceQuota %s (%s), or free what it counts", name, more)
	}
	return []plan.Wait{wait}
}

// defaulted is a new object as the limit ranges of its namespace complete it.
func (w *walk) defaulted(obj object.Object) object.Object {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj
	}
	pod = pod.DeepCopy()
	for _, o := range w.r.List(resource.LimitRanges, pod.Namespace) {
		if r, ok := o.(*corev1.LimitRange); ok {
			limits.Default(r, pod)
		}
	}
	return pod
}

func (w *walk) quotas(namespace string) (all []*corev1.ResourceQuota) {
	for _, o := range w.r.List(resource.ResourceQuotas, namespace) {
		if q, ok := o.(*corev1.ResourceQuota); ok {
			all = append(all, q)
		}
	}
	return all
}

// ending lists the objects of a kind that are being deleted and still count.
func (w *walk) ending(res resource.Resource, namespace string) (all []object.Object) {
	for _, o := range w.r.List(res, namespace) {
		if o.GetDeletionTimestamp() != nil {
			all = append(all, o)
		}
	}
	return all
}

// without is what quotas show once objects are gone.
func (w *walk) without(quotas []*corev1.ResourceQuota, res resource.Resource, gone []object.Object) []*corev1.ResourceQuota {
	out := make([]*corev1.ResourceQuota, len(quotas))
	for i, q := range quotas {
		out[i] = q.DeepCopy()
		for _, o := range gone {
			if bill, err := quota.Bill([]*corev1.ResourceQuota{unlimited(q)}, res, o, nil, w.now); err == nil && len(bill) > 0 {
				quota.Subtract(out[i].Status.Used, bill[0].Amount)
			}
		}
	}
	return out
}

// unlimited is a quota that counts and refuses nothing for want of room.
func unlimited(q *corev1.ResourceQuota) *corev1.ResourceQuota {
	q = q.DeepCopy()
	for name := range q.Status.Used {
		used := q.Status.Used[name]
		used.Set(0)
		q.Status.Used[name] = used
		hard := q.Spec.Hard[name]
		hard.Set(1 << 60)
		q.Spec.Hard[name] = hard
	}
	return q
}

// untilGone waits for those that hold the room and are ending.
func (w *walk) untilGone(name string, ending []object.Object, wait plan.Wait) (waits []plan.Wait) {
	for _, o := range ending[:min(few, len(ending))] {
		one := wait
		one.On = object.RefOf(o)
		one.Message = fmt.Sprintf("quota %s has room when %s %s is gone, which is being deleted", name, strings.ToLower(one.On.Resource.Kind), o.GetName())
		if pod, ok := o.(*corev1.Pod); ok {
			v := diagnose.Pod(w.r, pod, 0, w.now)
			one.Hint = v.Hint
		}
		waits = append(waits, one)
	}
	return waits
}

// raised says how far a quota must be raised for one more object; "" when it is something else that it refuses.
func raised(quotas []*corev1.ResourceQuota, name string, res resource.Resource, obj object.Object) string {
	at := slices.IndexFunc(quotas, func(q *corev1.ResourceQuota) bool { return q.Name == name })
	if at < 0 {
		return ""
	}
	q := quotas[at]
	bill, err := quota.Bill([]*corev1.ResourceQuota{unlimited(q)}, res, obj, nil, time.Time{})
	if err != nil || len(bill) == 0 {
		return ""
	}
	var parts []string
	for _, what := range sortedNames(bill[0].Amount) {
		need := q.Status.Used[what].DeepCopy()
		need.Add(bill[0].Amount[what])
		if need.Cmp(q.Spec.Hard[what]) > 0 {
			parts = append(parts, fmt.Sprintf("%s to %s at least", what, need.String()))
		}
	}
	return strings.Join(parts, ", ")
}
