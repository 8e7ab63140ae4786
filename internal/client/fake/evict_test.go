package fake_test

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// TestEvictionAsksTheBudget: one disruption is one eviction, and a pod that is not ready costs none.
func TestEvictionAsksTheBudget(t *testing.T) {
	ctx, c := context.Background(), fake.New()
	labels := map[string]string{"app": "a"}
	for name, ready := range map[string]corev1.ConditionStatus{"a": corev1.ConditionTrue, "b": corev1.ConditionTrue, "c": corev1.ConditionFalse} {
		c.Load(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, UID: "1", Labels: labels}, Spec: corev1.PodSpec{NodeName: "n"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}})
	}
	always := policyv1.AlwaysAllow
	c.Load(&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "budget"},
		Spec:   policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, UnhealthyPodEvictionPolicy: &always},
		Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}})
	evict := func(name string) error {
		_, err := c.CreateSub(ctx, object.Ref{Resource: resource.Pods, Key: object.Key{Namespace: "x", Name: name}}, "eviction",
			&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}})
		return err
	}
	if err := evict("a"); err != nil {
		t.Errorf("the budget has one left: %v", err)
	}
	if o, err := c.Get(ctx, resource.Pods, "x", "a"); err != nil || o.GetDeletionTimestamp() == nil {
		t.Errorf("evicted: %v, %v", o, err)
	}
	if err := evict("b"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("the budget is spent: %v", err)
	}
	if err := evict("c"); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// TestAdmit: what Admit refuses is not stored, and it may read the cluster.
func TestAdmit(t *testing.T) {
	ctx, c := context.Background(), fake.New()
	refusal := errors.New("no")
	var verbs []string
	c.Admit = func(verb string, obj, old object.Object) error {
		verbs = append(verbs, verb)
		if _, err := c.Get(ctx, resource.ConfigMaps, "x", obj.GetName()); (err == nil) != (old != nil) {
			t.Errorf("%s: old is %v, the cluster says %v", verb, old, err)
		}
		if obj.GetName() == "bad" || obj.GetLabels()["bad"] != "" {
			return refusal
		}
		return nil
	}
	if _, err := c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "bad"}}); !errors.Is(err, refusal) {
		t.Errorf("create: %v", err)
	}
	o, err := c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "good"}})
	if err != nil {
		t.Fatal(err)
	}
	next := o.DeepCopyObject().(object.Object)
	next.SetLabels(map[string]string{"bad": "yes"})
	if _, err := c.Update(ctx, next, ""); !errors.Is(err, refusal) || len(verbs) != 3 {
		t.Errorf("update: %v, asked about %v", err, verbs)
	}
}
