package disruption_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/disruption"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/resource"
)

func meta(name string, owners ...object.Object) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: "d", Name: name, Labels: map[string]string{"app": "web"}}
	for _, o := range owners {
		m.OwnerReferences = append(m.OwnerReferences, looptest.Owner(o))
	}
	return m
}

func ready(is bool) corev1.PodStatus {
	s := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}}
	if is {
		s.Conditions[0].Status = corev1.ConditionTrue
	}
	return s
}

// world makes a Deployment of 10 with nine pods, eight of them ready, and a budget.
func world(t *testing.T, spec policyv1.PodDisruptionBudgetSpec) *looptest.Cluster {
	c := looptest.Run(t, fake.New(), disruption.Controllers()...)
	ten := int32(10)
	d := looptest.Make(c, &appsv1.Deployment{ObjectMeta: meta("web"), Spec: appsv1.DeploymentSpec{Replicas: &ten}})
	rs := looptest.Make(c, &appsv1.ReplicaSet{ObjectMeta: meta("web-1", d), Spec: appsv1.ReplicaSetSpec{Replicas: &ten}})
	for i := range 9 {
		looptest.Make(c, &corev1.Pod{ObjectMeta: meta(fmt.Sprintf("web-1-%d", i), rs), Status: ready(i > 0)})
	}
	spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	looptest.Make(c, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "b"}, Spec: spec})
	synctest.Wait()
	return c
}

func budget(c *looptest.Cluster) *policyv1.PodDisruptionBudget {
	return looptest.Find[*policyv1.PodDisruptionBudget](c, resource.PodDisruptionBudgets, "d", "b")
}

func show(c *looptest.Cluster) string {
	s := budget(c).Status
	return fmt.Sprintf("expected %d, desired %d, healthy %d, allowed %d, %s", s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed, s.Conditions[0].Reason)
}

func TestCounts(t *testing.T) {
	number, share := intstr.FromInt32, intstr.FromString
	for _, tt := range []struct {
		name     string
		min, max *intstr.IntOrString
		want     string
	}{
		{"min number", ptr(number(7)), nil, "expected 9, desired 7, healthy 8, allowed 1, SufficientPods"},
		{"min share", ptr(share("75%")), nil, "expected 10, desired 8, healthy 8, allowed 0, InsufficientPods"},
		{"max number", nil, ptr(number(3)), "expected 10, desired 7, healthy 8, allowed 1, SufficientPods"},
		{"max share", nil, ptr(share("25%")), "expected 10, desired 7, healthy 8, allowed 1, SufficientPods"},
		{"max all", nil, ptr(share("100%")), "expected 10, desired 0, healthy 8, allowed 8, SufficientPods"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := world(t, policyv1.PodDisruptionBudgetSpec{MinAvailable: tt.min, MaxUnavailable: tt.max})
				if got := show(c); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			})
		})
	}
}

func TestScaleAndReadinessAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := world(t, policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromString("50%"))})
		looptest.Edit(c, resource.Deployments, "d", "web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr(int32(14)) })
		synctest.Wait()
		if got, want := show(c), "expected 14, desired 7, healthy 8, allowed 1, SufficientPods"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		looptest.Edit(c, resource.Pods, "d", "web-1-5", func(p *corev1.Pod) { p.Status = ready(false) })
		synctest.Wait()
		if got, want := show(c), "expected 14, desired 7, healthy 7, allowed 0, InsufficientPods"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// TestEvictedPodCountsAsGone for two minutes; if it is then still there, it counts again.
func TestEvictedPodCountsAsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := world(t, policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromInt32(5))})
		looptest.Edit(c, resource.PodDisruptionBudgets, "d", "b", func(b *policyv1.PodDisruptionBudget) {
			b.Status.DisruptedPods = map[string]metav1.Time{"web-1-3": metav1.NewTime(time.Now()), "no-such-pod": metav1.NewTime(time.Now())}
			b.Status.DisruptionsAllowed--
		})
		synctest.Wait()
		if got, want := show(c), "expected 9, desired 5, healthy 7, allowed 2, SufficientPods"; got != want || len(budget(c).Status.DisruptedPods) != 1 {
			t.Errorf("got  %s %v\nwant %s", got, budget(c).Status.DisruptedPods, want)
		}
		time.Sleep(2*time.Minute + time.Second)
		synctest.Wait()
		if got, want := show(c), "expected 9, desired 5, healthy 8, allowed 3, SufficientPods"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		pod := looptest.Find[*corev1.Pod](c, resource.Pods, "d", "web-1-3")
		if got := looptest.Reasons(c, pod); !slices.Equal(got, []string{"NotDeleted"}) {
			t.Errorf("events %v", got)
		}
	})
}

func TestWhatCannotBeCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := world(t, policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt32(3))})
		looptest.Make(c, &corev1.Pod{ObjectMeta: meta("bare")})
		synctest.Wait()
		if got := looptest.Reasons(c, budget(c)); !slices.Contains(got, "UnmanagedPods") {
			t.Errorf("events %v", got)
		}
		ds := looptest.Make(c, &appsv1.DaemonSet{ObjectMeta: meta("ds")})
		looptest.Make(c, &corev1.Pod{ObjectMeta: meta("ds-1", ds)})
		synctest.Wait()
		b := budget(c)
		if b.Status.DisruptionsAllowed != 0 || b.Status.Conditions[0].Reason != "SyncFailed" || b.Status.Conditions[0].Message != `found no controllers for pod "ds-1"` {
			t.Errorf("status %+v", b.Status)
		}
	})
}

func TestAnnouncementIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), disruption.Controllers()...)
		announce := func(name string) {
			p := &corev1.Pod{ObjectMeta: meta(name), Spec: corev1.PodSpec{NodeName: "n"}, Status: ready(true)}
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.NewTime(time.Now()),
			})
			looptest.Make(c, p)
		}
		announce("stays")
		announce("goes")
		looptest.Remove(c, looptest.Find[*corev1.Pod](c, resource.Pods, "d", "goes"), "")
		target := func(name string) corev1.ConditionStatus {
			return looptest.Find[*corev1.Pod](c, resource.Pods, "d", name).Status.Conditions[1].Status
		}
		time.Sleep(119 * time.Second)
		synctest.Wait()
		if got := target("stays"); got != corev1.ConditionTrue {
			t.Errorf("taken back too soon: %s", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if target("stays") != corev1.ConditionFalse || target("goes") != corev1.ConditionTrue {
			t.Errorf("stays %s, goes %s", target("stays"), target("goes"))
		}
	})
}
