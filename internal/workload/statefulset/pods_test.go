package statefulset

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNeverServed(t *testing.T) {
	epoch := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) metav1.Time {
		return metav1.Time{Time: epoch.Add(time.Duration(seconds) * time.Second)}
	}
	start := at(0)
	pod := func(change func(*corev1.Pod, *corev1.ContainerStatus)) *corev1.Pod {
		p := &corev1.Pod{
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &start,
				Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: at(0)}},
				ContainerStatuses: []corev1.ContainerStatus{{Name: "c"}}},
		}
		change(p, &p.Status.ContainerStatuses[0])
		return p
	}
	unreadySince := func(p *corev1.Pod, seconds int) { p.Status.Conditions[0].LastTransitionTime = at(seconds) }
	crashLoop := func(restarts int32, lastStart, lastEnd int) func(*corev1.Pod, *corev1.ContainerStatus) {
		return func(p *corev1.Pod, s *corev1.ContainerStatus) {
			unreadySince(p, lastEnd)
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
			s.RestartCount = restarts
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, StartedAt: at(lastStart), FinishedAt: at(lastEnd)}
		}
	}
	running := func(p *corev1.Pod, s *corev1.ContainerStatus) { s.State.Running = &corev1.ContainerStateRunning{} }
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"pending", pod(func(p *corev1.Pod, _ *corev1.ContainerStatus) { p.Status.Phase = corev1.PodPending }), true},
		{"ready now", pod(func(p *corev1.Pod, s *corev1.ContainerStatus) {
			running(p, s)
			p.Status.Conditions[0].Status = corev1.ConditionTrue
		}), false},
		{"runs, unready since its start", pod(running), true},
		{"runs, unready since later", pod(func(p *corev1.Pod, s *corev1.ContainerStatus) { running(p, s); unreadySince(p, 30) }), false},
		{"no condition at all", pod(func(p *corev1.Pod, s *corev1.ContainerStatus) { running(p, s); p.Status.Conditions = nil }), false},
		{"no start time, running", pod(func(p *corev1.Pod, s *corev1.ContainerStatus) { running(p, s); p.Status.StartTime = nil }), false},
		{"no container ever started", pod(func(p *corev1.Pod, s *corev1.ContainerStatus) {
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CreateContainerError"}
			unreadySince(p, 30)
		}), true},
		{"first crash, no probe", pod(func(p *corev1.Pod, s *corev1.ContainerStatus) { crashLoop(0, 0, 0)(p, s) }), false},
		{"crashes with a probe that never passed", pod(func(p *corev1.Pod, s *corev1.ContainerStatus) {
			crashLoop(3, 70, 71)(p, s)
			unreadySince(p, 0)
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{}
		}), true},
		{"second crash: not certain yet", pod(crashLoop(1, 1, 2)), false},
		{"crashes at once, every time", pod(crashLoop(2, 12, 13)), true},
		{"crashes at once, many times", pod(crashLoop(5, 152, 153)), true},
		{"the last run was long", pod(crashLoop(5, 152, 182)), false},
		{"an earlier run was long", pod(crashLoop(5, 252, 253)), false},
		{"an earlier run was very long", pod(crashLoop(6, 810, 811)), false},
		{"restarts faster than the backoff allows", pod(crashLoop(6, 100, 101)), false},
		{"runs again in a crash loop", pod(func(p *corev1.Pod, s *corev1.ContainerStatus) {
			crashLoop(3, 12, 13)(p, s)
			s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		}), true},
	} {
		if got := neverServed(tc.pod); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}
