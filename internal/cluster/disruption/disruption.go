// Package disruption keeps the status of PodDisruptionBudgets: how many of the pods they guard
// are healthy, how many must be, and so how many may be evicted now (policy/v1, KEP-85).
//
// It owns pure planners. The eviction subresource, which spends what the status allows, is the
// API server's. It refuses to guess where it cannot count: then nothing may be evicted.
package disruption

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// DeletionTimeout is how long an evicted pod counts as disrupted without being deleted.
const DeletionTimeout = 2 * time.Minute

// Controllers returns the planners.
func Controllers() []plan.Controller { return []plan.Controller{budgets(), stale()} }

func budgets() plan.Controller {
	ctl := plan.Controller{
		Name: "disruption-controller", For: resource.PodDisruptionBudgets, Plan: planBudget,
		Watches: []plan.Watch{{Resource: resource.Pods, Keys: budgetsOf}},
	}
	for _, res := range []resource.Resource{resource.Deployments, resource.ReplicaSets, resource.StatefulSets, resource.ReplicationControllers} {
		ctl.Watches = append(ctl.Watches, plan.Watch{Resource: res, Keys: scaled})
	}
	return ctl
}

// budgetsOf asks for the budgets that guard a pod, when its change can alter their status.
func budgetsOf(r object.Reader, before, after object.Object) []object.Key {
	if before != nil && after != nil && !altered(before.(*corev1.Pod), after.(*corev1.Pod)) {
		return nil
	}
	var keys []object.Key
	for _, o := range r.List(resource.PodDisruptionBudgets, namespaceOf(before, after)) {
		guarded := guards(o.(*policyv1.PodDisruptionBudget))
		if before != nil && guarded.Matches(labels.Set(before.GetLabels())) || after != nil && guarded.Matches(labels.Set(after.GetLabels())) {
			keys = append(keys, object.KeyOf(o))
		}
	}
	return keys
}

func namespaceOf(before, after object.Object) string {
	if after != nil {
		return after.GetNamespace()
	}
	return before.GetNamespace()
}

func altered(was, is *corev1.Pod) bool {
	return isReady(was) != isReady(is) || (was.DeletionTimestamp == nil) != (is.DeletionTimestamp == nil) ||
		!apiequality.Semantic.DeepEqual(was.Labels, is.Labels) || !apiequality.Semantic.DeepEqual(was.OwnerReferences, is.OwnerReferences)
}

// scaled asks for the budgets of a namespace when a controller in it is scaled.
func scaled(r object.Reader, before, after object.Object) []object.Key {
	if before != nil && after != nil && replicas(before) == replicas(after) {
		return nil
	}
	var keys []object.Key
	for _, o := range r.List(resource.PodDisruptionBudgets, namespaceOf(before, after)) {
		keys = append(keys, object.KeyOf(o))
	}
	return keys
}

// replicas is the scale a controller has; -1 for a kind that has none.
func replicas(o object.Object) int32 {
	var n *int32
	switch o := o.(type) {
	case *appsv1.Deployment:
		n = o.Spec.Replicas
	case *appsv1.ReplicaSet:
		n = o.Spec.Replicas
	case *appsv1.StatefulSet:
		n = o.Spec.Replicas
	case *corev1.ReplicationController:
		n = o.Spec.Replicas
	default:
		return -1
	}
	if n == nil {
		return 1
	}
	return *n
}

// guards is the budget's selector: none selects nothing, an empty one every pod.
func guards(b *policyv1.PodDisruptionBudget) labels.Selector {
	s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return labels.Nothing()
	}
	return s
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func planBudget(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.PodDisruptionBudgets, in.Key.Namespace, in.Key.Name)
	if !ok || o.GetDeletionTimestamp() != nil {
		return plan.Plan{}
	}
	b := o.(*policyv1.PodDisruptionBudget)
	var p plan.Plan
	pods := guarded(in.Reader, b)
	if len(pods) == 0 {
		p.Events = append(p.Events, about(b, corev1.EventTypeNormal, "NoPods", "No matching pods found"))
	}
	c, err := count(in.Reader, b, pods)
	next := b.DeepCopy()
	next.Status.ObservedGeneration = b.Generation
	if err != nil {
		// What cannot be counted must not be disrupted.
		next.Status.DisruptionsAllowed = 0
		setCondition(&next.Status, policyv1.SyncFailedReason, err.Error(), in.Now)
		p.Events = append(p.Events, about(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed",
			"Failed to calculate the number of expected pods: "+err.Error()))
		p.Why = plan.Why{State: plan.Stuck, Waits: []plan.Wait{{
			Reason: policyv1.SyncFailedReason, Message: err.Error(), Hint: "set spec.minAvailable to a number",
		}}}
		p.Status = changed(b, next)
		return p
	}
	if len(c.unmanaged) > 0 {
		p.Events = append(p.Events, about(b, corev1.EventTypeWarning, "UnmanagedPods", fmt.Sprintf(
			"Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated "+
				"correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
			guards(b))))
	}
	var events []plan.Event
	next.Status.DisruptedPods, p.Again, events = disrupted(b, pods, in.Now)
	p.Events = append(p.Events, events...)
	healthy := healthy(pods, next.Status.DisruptedPods)
	allowed := max(healthy-c.desired, 0)
	if c.expected <= 0 {
		allowed = 0
	}
	next.Status.CurrentHealthy, next.Status.DesiredHealthy = healthy, c.desired
	next.Status.ExpectedPods, next.Status.DisruptionsAllowed = c.expected, allowed
	if allowed > 0 {
		setCondition(&next.Status, policyv1.SufficientPodsReason, "", in.Now)
		p.Why = plan.Why{State: plan.Steady}
	} else {
		setCondition(&next.Status, policyv1.InsufficientPodsReason, "", in.Now)
		p.Why = plan.Why{State: plan.Waiting, Next: "allow disruptions", Waits: []plan.Wait{{
			Reason: policyv1.InsufficientPodsReason, Message: fmt.Sprintf("%d of the %d pods that must be healthy are", healthy, c.desired),
		}}}
	}
	p.Status = changed(b, next)
	return p
}

func about(b *policyv1.PodDisruptionBudget, kind, reason, message string) plan.Event {
	return plan.Event{Regarding: object.RefOf(b), Type: kind, Reason: reason, Message: message}
}

func changed(b, next *policyv1.PodDisruptionBudget) object.Object {
	if apiequality.Semantic.DeepEqual(b.Status, next.Status) {
		return nil
	}
	return next
}

func guarded(r object.Reader, b *policyv1.PodDisruptionBudget) []*corev1.Pod {
	selector := guards(b)
	var out []*corev1.Pod
	if selector.Empty() && b.Spec.Selector == nil {
		return nil
	}
	for _, o := range r.List(resource.Pods, b.Namespace) {
		if selector.Matches(labels.Set(o.GetLabels())) {
			out = append(out, o.(*corev1.Pod))
		}
	}
	return out
}

// counts is what a budget asks for.
type counts struct {
	expected, desired int32
	unmanaged         []string
}

// count resolves the budget's number or share against the pods, or the scale of their controllers.
func count(r object.Reader, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (c counts, err error) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		if c.expected, c.unmanaged, err = scale(r, pods); err != nil {
			return c, err
		}
		most, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(c.expected), true)
		if err != nil {
			return c, fmt.Errorf("maxUnavailable: %w", err)
		}
		c.desired = max(c.expected-int32(most), 0)
	case b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.Int:
		c.desired, c.expected = b.Spec.MinAvailable.IntVal, int32(len(pods))
	case b.Spec.MinAvailable != nil:
		if c.expected, c.unmanaged, err = scale(r, pods); err != nil {
			return c, err
		}
		least, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(c.expected), true)
		if err != nil {
			return c, fmt.Errorf("minAvailable: %w", err)
		}
		c.desired = int32(least)
	}
	return c, nil
}

// scale adds up the scales of the pods' controllers, each once.
func scale(r object.Reader, pods []*corev1.Pod) (sum int32, unmanaged []string, err error) {
	seen := map[types.UID]bool{}
	for _, p := range pods {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			unmanaged = append(unmanaged, p.Name)
			continue
		}
		if seen[ref.UID] {
			continue
		}
		seen[ref.UID] = true
		uid, n, ok := scaleOf(r, p.Namespace, ref)
		if !ok {
			return 0, nil, fmt.Errorf("found no controllers for pod %q", p.Name)
		}
		if uid != ref.UID {
			if seen[uid] {
				continue
			}
			seen[uid] = true
		}
		sum += n
	}
	return sum, unmanaged, nil
}

// scaleOf finds the scale behind a controller reference: a ReplicaSet's is its Deployment's.
func scaleOf(r object.Reader, namespace string, ref *metav1.OwnerReference) (types.UID, int32, bool) {
	res, ok := resource.ByKind(ref.APIVersion, ref.Kind)
	if !ok {
		return "", 0, false
	}
	o, ok := r.Get(res, namespace, ref.Name)
	if !ok || o.GetUID() != ref.UID || replicas(o) < 0 {
		return "", 0, false
	}
	if parent := metav1.GetControllerOfNoCopy(o); res == resource.ReplicaSets && parent != nil &&
		parent.Kind == resource.Deployments.Kind && strings.HasPrefix(parent.APIVersion, resource.Deployments.Group+"/") {
		if d, ok := r.Get(resource.Deployments, namespace, parent.Name); ok && d.GetUID() == parent.UID {
			return d.GetUID(), replicas(d), true
		}
	}
	return o.GetUID(), replicas(o), true
}

// disrupted keeps the evictions that the pods do not show yet, and says when the first of them
// has taken too long.
func disrupted(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) (left map[string]metav1.Time, again time.Time, events []plan.Event) {
	for _, p := range pods {
		at, ok := b.Status.DisruptedPods[p.Name]
		if !ok || p.DeletionTimestamp != nil {
			continue
		}
		ends := at.Add(DeletionTimeout)
		if !now.Before(ends) {
			events = append(events, plan.Event{
				Regarding: object.RefOf(p), Type: corev1.EventTypeWarning, Reason: "NotDeleted",
				Message: fmt.Sprintf("Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name),
			})
			continue
		}
		if left == nil {
			left = map[string]metav1.Time{}
		}
		left[p.Name] = at
		if again.IsZero() || ends.Before(again) {
			again = ends
		}
	}
	return left, again, events
}

func healthy(pods []*corev1.Pod, disrupted map[string]metav1.Time) int32 {
	var n int32
	for _, p := range pods {
		if _, evicted := disrupted[p.Name]; !evicted && p.DeletionTimestamp == nil && isReady(p) {
			n++
		}
	}
	return n
}

func setCondition(s *policyv1.PodDisruptionBudgetStatus, reason, message string, now time.Time) {
	c := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: s.ObservedGeneration, LastTransitionTime: metav1.NewTime(now),
	}
	if reason == policyv1.SufficientPodsReason {
		c.Status = metav1.ConditionTrue
	}
	at := slices.IndexFunc(s.Conditions, func(o metav1.Condition) bool { return o.Type == c.Type })
	if at < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if s.Conditions[at].Status == c.Status {
		c.LastTransitionTime = s.Conditions[at].LastTransitionTime
	}
	s.Conditions[at] = c
}
