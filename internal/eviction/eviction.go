// Package eviction is the rule by which a disruption budget grants or refuses an eviction (policy/v1, KEP-85).
//
// It owns the arithmetic, for the API server's eviction subresource and for clusters in memory alike. It refuses
// storage, retries and deletions, which are the callers'; what a budget's status says is the disruption controller's.
package eviction

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"coracle/internal/podstate"
)

// MaxDisrupted is how many evictions may wait for the budget's controller to confirm them.
const MaxDisrupted = 2000

// ErrTwoBudgets is what an eviction of a pod is answered that more than one budget guards.
const ErrTwoBudgets = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."

// Free holds for pods whose going disrupts nothing, whatever the budget has left.
func Free(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

// Guards says whether a budget of the pod's namespace selects the pod. A selector that cannot be read selects nothing.
func Guards(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && selector.Matches(labels.Set(pod.Labels))
}

// Unhealthy says whether a pod may be evicted for not being ready, whatever the budget has left
// (spec.unhealthyPodEvictionPolicy, KEP-3017).
func Unhealthy(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	if podstate.Ready(pod) {
		return false
	}
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// Spend takes one disruption off a budget for a pod, in place. The error is the API's refusal.
func Spend(b *policyv1.PodDisruptionBudget, pod string, now metav1.Time) error {
	budgets := schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudget"}
	switch s := &b.Status; {
	case s.ObservedGeneration < b.Generation:
		return refuse(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case s.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(budgets, b.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case len(s.DisruptedPods) > MaxDisrupted:
		return apierrors.NewForbidden(budgets, b.Name, fmt.Errorf("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case s.DisruptionsAllowed == 0:
		return refuse(0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, s.DesiredHealthy, s.CurrentHealthy))
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		apimeta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
			Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Status.ObservedGeneration, LastTransitionTime: now,
		})
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[pod] = now
	return nil
}

func refuse(retryAfter int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: policyv1.DisruptionBudgetCause, Message: cause,
	})
	return err
}

// Condition is what an evicted pod is marked with.
func Condition(generation int64, now metav1.Time) corev1.PodCondition {
	return corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: generation,
		Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting", LastTransitionTime: now,
	}
}
