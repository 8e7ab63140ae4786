package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/eviction"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// Delete implements client.Interface: a pod on a node is given its grace period, an object with
// finalizers waits for them, a propagation policy becomes a finalizer.
func (c *Cluster) Delete(ctx context.Context, ref object.Ref, opts metav1.DeleteOptions) (object.Object, error) {
	if err := c.begin(ctx, "delete", ref, ""); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delete(ref, opts)
}

func (c *Cluster) delete(ref object.Ref, opts metav1.DeleteOptions) (object.Object, error) {
	before, err := c.find(ref)
	if err != nil {
		return nil, err
	}
	if ref.UID != "" && ref.UID != before.GetUID() {
		return nil, conflict(ref, fmt.Sprintf("Precondition failed: UID in precondition: %s, UID in object meta: %s", ref.UID, before.GetUID()))
	}
	if p := opts.Preconditions; p != nil && p.ResourceVersion != nil && *p.ResourceVersion != before.GetResourceVersion() {
		return nil, conflict(ref, "Precondition failed: ResourceVersion changed")
	}
	obj := before.DeepCopyObject().(object.Object)
	if opts.PropagationPolicy != nil {
		setPropagation(obj, *opts.PropagationPolicy)
	}
	grace := graceOf(obj, opts.GracePeriodSeconds)
	if old := before.GetDeletionGracePeriodSeconds(); before.GetDeletionTimestamp() != nil && old != nil && *old <= grace {
		grace = *old
	}
	if before.GetDeletionTimestamp() == nil || grace < *before.GetDeletionGracePeriodSeconds() {
		at := metav1.NewTime(c.timestamp().Add(time.Duration(grace) * time.Second))
		obj.SetDeletionTimestamp(&at)
		obj.SetDeletionGracePeriodSeconds(&grace)
		if ns, ok := obj.(*corev1.Namespace); ok {
			ns.Status.Phase = corev1.NamespaceTerminating
		}
		if hasSpec(obj) {
			obj.SetGeneration(before.GetGeneration() + 1)
		}
	} else if slices.Equal(obj.GetFinalizers(), before.GetFinalizers()) && !deletable(obj) {
		return before, nil
	}
	return c.commit(ref.Resource, obj, before, deletable(obj)), nil
}

func setPropagation(obj object.Object, policy metav1.DeletionPropagation) {
	finalizers := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool {
		return f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents
	})
	switch policy {
	case metav1.DeletePropagationForeground:
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	case metav1.DeletePropagationOrphan:
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	}
	obj.SetFinalizers(finalizers)
}

// graceOf is the grace period of a deletion in seconds: only pods that a node runs have one.
func graceOf(obj object.Object, asked *int64) int64 {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return 0
	}
	if pod.Spec.NodeName == "" || podstate.Ended(pod) {
		return 0
	}
	if asked != nil {
		return *asked
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

// CreateSub implements client.Interface for pods/binding and pods/eviction, which asks the pod's disruption
// budget as the API server does.
func (c *Cluster) CreateSub(ctx context.Context, ref object.Ref, subresource string, obj any) (any, error) {
	if err := c.begin(ctx, "create", ref, subresource); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch body := obj.(type) {
	case *corev1.Binding:
		before, err := c.find(ref)
		if err != nil {
			return nil, err
		}
		pod := before.DeepCopyObject().(*corev1.Pod)
		if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil {
			return nil, conflict(ref, fmt.Sprintf("pod %s is already assigned to node %q", pod.Name, pod.Spec.NodeName))
		}
		pod.Spec.NodeName = body.Target.Name
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: c.timestamp(),
		})
		c.commit(resource.Pods, pod, before, false)
		return &metav1.Status{Status: metav1.StatusSuccess}, nil
	case *policyv1.Eviction:
		if err := c.evict(ref, body.DeleteOptions); err != nil {
			return nil, err
		}
		return &metav1.Status{Status: metav1.StatusSuccess}, nil
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("%s has no subresource %s taking a %T", ref.Resource, subresource, obj))
}

// evict marks and deletes a pod if its budget has a disruption left.
func (c *Cluster) evict(ref object.Ref, asked *metav1.DeleteOptions) error {
	var opts metav1.DeleteOptions
	if asked != nil {
		opts = *asked
	}
	o, err := c.find(ref)
	if err != nil {
		return err
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return apierrors.NewBadRequest("only pods are evicted")
	}
	if err := c.spend(pod); err != nil {
		return err
	}
	if pod.DeletionTimestamp == nil {
		marked, now := pod.DeepCopy(), c.timestamp()
		marked.Status.Conditions = slices.DeleteFunc(marked.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
		marked.Status.Conditions = append(marked.Status.Conditions, eviction.Condition(pod.Generation, now))
		c.commit(resource.Pods, marked, pod, false)
	}
	_, err = c.delete(ref, opts)
	return err
}

// spend asks the budget that guards a pod, and takes one disruption off it.
func (c *Cluster) spend(pod *corev1.Pod) error {
	if eviction.Free(pod) {
		return nil
	}
	var budget *policyv1.PodDisruptionBudget
	for key, o := range c.objects[resource.PodDisruptionBudgets] {
		b, ok := o.(*policyv1.PodDisruptionBudget)
		if !ok || key.Namespace != pod.Namespace || !eviction.Guards(b, pod) {
			continue
		}
		if budget != nil {
			return apierrors.NewInternalError(errors.New(eviction.ErrTwoBudgets)) //nolint:staticcheck // upstream's words
		}
		budget = b
	}
	if budget == nil || eviction.Unhealthy(budget, pod) {
		return nil
	}
	next := budget.DeepCopy()
	if err := eviction.Spend(next, pod.Name, c.timestamp()); err != nil {
		return err
	}
	c.commit(resource.PodDisruptionBudgets, next, budget, false)
	return nil
}
