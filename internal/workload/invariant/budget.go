package invariant

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// budgetPast is what has been true of a disruption budget since its controller last knew all.
type budgetPast struct {
	generation int64
	edited     bool
	desired    int32
	// fell holds healthy pods that were lost since by something else than an eviction.
	fell map[types.UID]bool
}

func newBudgetPast(o object.Object) *budgetPast {
	b := o.(*policyv1.PodDisruptionBudget)
	return &budgetPast{generation: b.Generation, desired: b.Status.DesiredHealthy, fell: map[types.UID]bool{},
		edited: b.Status.ObservedGeneration != b.Generation}
}

func (w *Writes) budgetWritten(e Write) {
	b, p := e.After.(*policyv1.PodDisruptionBudget), w.budgets[e.After.GetUID()]
	switch {
	case e.Gone:
		delete(w.budgets, b.UID)
	case p != nil:
		p.edited = p.edited || b.Generation != p.generation
		p.desired = min(p.desired, b.Status.DesiredHealthy)
	}
}

func guarded(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && s.Matches(labels.Set(pod.Labels))
}

func healthyPod(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil && podstate.Ready(pod) }

// evicted holds when an eviction of a healthy pod leaves as many healthy ones as its budget asks for; those that were
// lost otherwise since the budget's controller last knew all are not the eviction's fault.
func (w *Writes) evicted(r object.Reader, e Write) error {
	before, _ := e.Before.(*corev1.Pod)
	after := e.After.(*corev1.Pod)
	if before == nil || !healthyPod(before) {
		return nil
	}
	c := podstate.Condition(after, corev1.DisruptionTarget)
	byEviction := e.By == "user" && e.begins() && c != nil && c.Reason == "EvictionByEvictionAPI"
	for _, o := range r.List(resource.PodDisruptionBudgets, before.Namespace) {
		b := o.(*policyv1.PodDisruptionBudget)
		p := w.budgets[b.UID]
		if p == nil || !guarded(b, before) {
			continue
		}
		if !byEviction {
			if e.Gone || !healthyPod(after) || !guarded(b, after) {
				p.fell[before.UID] = true
			}
			continue
		}
		healthy := int32(0)
		for _, o := range r.List(resource.Pods, b.Namespace) {
			if pod := o.(*corev1.Pod); guarded(b, pod) && (healthyPod(pod) || p.fell[pod.UID]) {
				healthy++
			}
		}
		for uid := range p.fell {
			if !isThere(r, b.Namespace, uid) {
				healthy++
			}
		}
		if !p.edited && healthy < p.desired {
			return fmt.Errorf("budget: %s is evicted, which leaves %d healthy pods; budget %s asks for %d", before.Name, healthy, b.Name, p.desired)
		}
	}
	return nil
}

func isThere(r object.Reader, namespace string, uid types.UID) bool {
	for _, o := range r.List(resource.Pods, namespace) {
		if o.GetUID() == uid {
			return true
		}
	}
	return false
}

// BudgetsExact holds when the status of every disruption budget tells the truth of its pods, for a cluster at rest.
// What cannot be counted, and says so, is let pass.
func BudgetsExact(r object.Reader, _ time.Time) error {
	for _, o := range r.List(resource.PodDisruptionBudgets, "") {
		b := o.(*policyv1.PodDisruptionBudget)
		s := b.Status
		if s.ObservedGeneration != b.Generation {
			return fmt.Errorf("budget: %s is of generation %d, its status of %d", object.KeyOf(b), b.Generation, s.ObservedGeneration)
		}
		failed := false
		for _, c := range s.Conditions {
			failed = failed || c.Reason == policyv1.SyncFailedReason
		}
		if failed {
			continue
		}
		healthy := int32(0)
		for _, o := range r.List(resource.Pods, b.Namespace) {
			if pod := o.(*corev1.Pod); guarded(b, pod) && healthyPod(pod) {
				healthy++
			}
		}
		if s.CurrentHealthy != healthy || s.DisruptionsAllowed != max(0, healthy-s.DesiredHealthy) && s.ExpectedPods > 0 {
			return fmt.Errorf("budget: %s has %d healthy pods, its status says %+v", object.KeyOf(b), healthy, s)
		}
	}
	return nil
}
