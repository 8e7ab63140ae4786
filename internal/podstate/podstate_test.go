package podstate_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/podstate"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func pod(phase corev1.PodPhase, conditions ...corev1.PodCondition) *corev1.Pod {
	return &corev1.Pod{Status: corev1.PodStatus{Phase: phase, Conditions: conditions}}
}

func ready(status corev1.ConditionStatus, since time.Time) corev1.PodCondition {
	return corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Time{Time: since}}
}

func deleted(p *corev1.Pod) *corev1.Pod {
	p.DeletionTimestamp = &metav1.Time{Time: start}
	return p
}

func TestLife(t *testing.T) {
	for _, c := range []struct {
		name                       string
		pod                        *corev1.Pod
		active, terminating, ended bool
	}{
		{"pending", pod(corev1.PodPending), true, false, false},
		{"running", pod(corev1.PodRunning), true, false, false},
		{"unknown", pod(corev1.PodUnknown), true, false, false},
		{"succeeded", pod(corev1.PodSucceeded), false, false, true},
		{"failed", pod(corev1.PodFailed), false, false, true},
		{"being deleted", deleted(pod(corev1.PodRunning)), false, true, false},
		{"failed and being deleted", deleted(pod(corev1.PodFailed)), false, false, true},
	} {
		if a, d, e := podstate.Active(c.pod), podstate.Terminating(c.pod), podstate.Ended(c.pod); a != c.active || d != c.terminating || e != c.ended {
			t.Errorf("%s: active %v, terminating %v, ended %v", c.name, a, d, e)
		}
	}
}

func TestAvailable(t *testing.T) {
	for _, c := range []struct {
		name     string
		pod      *corev1.Pod
		minReady int32
		after    time.Duration
		want     bool
	}{
		{"no condition", pod(corev1.PodRunning), 0, time.Hour, false},
		{"not ready", pod(corev1.PodRunning, ready(corev1.ConditionFalse, start)), 0, time.Hour, false},
		{"unknown", pod(corev1.PodRunning, ready(corev1.ConditionUnknown, start)), 0, time.Hour, false},
		{"ready", pod(corev1.PodRunning, ready(corev1.ConditionTrue, start)), 0, 0, true},
		{"ready by a clock ahead of ours", pod(corev1.PodRunning, ready(corev1.ConditionTrue, start)), 0, -time.Second, true},
		{"too short", pod(corev1.PodRunning, ready(corev1.ConditionTrue, start)), 10, 10*time.Second - 1, false},
		{"just long enough", pod(corev1.PodRunning, ready(corev1.ConditionTrue, start)), 10, 10 * time.Second, true},
		{"since when is not known, and matters", pod(corev1.PodRunning, ready(corev1.ConditionTrue, time.Time{})), 10, time.Hour, false},
		{"since when is not known, and does not matter", pod(corev1.PodRunning, ready(corev1.ConditionTrue, time.Time{})), 0, time.Hour, true},
	} {
		if got := podstate.Available(c.pod, c.minReady, start.Add(c.after)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRestarts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "setup"}, {Name: "proxy", RestartPolicy: &always}}}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", RestartCount: 2}, {Name: "b", RestartCount: 5}}
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "setup", RestartCount: 9}, {Name: "proxy", RestartCount: 3}}
	if c, s := podstate.Restarts(p); c != 5 || s != 3 {
		t.Errorf("containers %d, sidecars %d; want 5, 3", c, s)
	}
}

func TestAlike(t *testing.T) {
	base := func() *corev1.Pod {
		p := pod(corev1.PodRunning, ready(corev1.ConditionTrue, start))
		yes := true
		p.UID, p.Labels = "u", map[string]string{"app": "web"}
		p.OwnerReferences = []metav1.OwnerReference{{UID: "o", Controller: &yes}}
		return p
	}
	same := base()
	same.ResourceVersion, same.Status.PodIP, same.Status.Conditions[0].Message = "2", "10.0.0.1", "words"
	if !podstate.Alike(base(), same) {
		t.Error("an address and a message make no difference")
	}
	for name, change := range map[string]func(*corev1.Pod){
		"uid":         func(p *corev1.Pod) { p.UID = "v" },
		"label":       func(p *corev1.Pod) { p.Labels["app"] = "db" },
		"more label":  func(p *corev1.Pod) { p.Labels["x"] = "" },
		"annotation":  func(p *corev1.Pod) { p.Annotations = map[string]string{"a": "b"} },
		"node":        func(p *corev1.Pod) { p.Spec.NodeName = "n" },
		"phase":       func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
		"readiness":   func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse },
		"since":       func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.Time{Time: start.Add(1e9)} },
		"condition":   func(p *corev1.Pod) { p.Status.Conditions = nil },
		"deletion":    func(p *corev1.Pod) { deleted(p) },
		"owner":       func(p *corev1.Pod) { p.OwnerReferences = nil },
		"other owner": func(p *corev1.Pod) { p.OwnerReferences[0].UID = "x" },
		"no control":  func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil },
	} {
		p := base()
		change(p)
		if podstate.Alike(base(), p) {
			t.Errorf("%s makes a difference", name)
		}
	}
}
