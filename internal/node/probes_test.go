package node

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// unhealthy counts the answers told of a pod's probes.
func (w *world) unhealthy(pod string) (n int32) {
	w.t.Helper()
	items, _, err := w.cluster.List(w.t.Context(), resource.Events, clientList("default"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, obj := range items {
		if ev := obj.(*corev1.Event); ev.InvolvedObject.Name == pod && ev.Reason == "Unhealthy" {
			n += ev.Count
		}
	}
	return n
}

func probeEvery(seconds, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}},
		PeriodSeconds: seconds, FailureThreshold: failures, TimeoutSeconds: 1,
	}
}

// TestProbesOfStoppingContainersRest: nothing is told of a container that is being stopped, whoever stops it.
func TestProbesOfStoppingContainersRest(t *testing.T) {
	t.Run("by its own probe", func(t *testing.T) {
		inWorld(t, func(w *world) {
			spec := one("dire:1")
			spec.TerminationGracePeriodSeconds = new(int64(20))
			spec.Containers[0].LivenessProbe = probeEvery(1, 3)
			w.create("pod", spec)
			w.settle(20 * time.Second)
			if n := w.unhealthy("pod"); n != 3 {
				t.Errorf("%d failures told, want 3:\n%s", n, w.events("pod"))
			}
			w.settle(3 * time.Second)
			w.want("pod", "Running ready main=running*1")
			w.settle(5 * time.Second)
			if n := w.unhealthy("pod"); n != 6 { // the next run has its own
				t.Errorf("%d failures told, want 6:\n%s", n, w.events("pod"))
			}
		})
	})
	for _, sort := range []string{"liveness", "startup", "of a sidecar", "definition"} {
		t.Run(sort, func(t *testing.T) {
			inWorld(t, func(w *world) {
				spec := one("dire:1")
				switch sort {
				case "startup":
					spec.Containers[0].StartupProbe = probeEvery(1, 1000)
					spec.Containers[0].ReadinessProbe = probeEvery(1, 1000)
				case "of a sidecar":
					side := *spec.Containers[0].DeepCopy()
					side.Name, side.RestartPolicy, side.LivenessProbe = "side", new(corev1.ContainerRestartPolicyAlways), probeEvery(1, 1000)
					spec.InitContainers = []corev1.Container{side}
				default:
					spec.Containers[0].LivenessProbe = probeEvery(1, 1000)
				}
				w.create("pod", spec)
				w.settle(5*time.Second + time.Second/2)
				before := w.unhealthy("pod")
				if before < 4 {
					t.Fatalf("%d failures told before:\n%s", before, w.events("pod"))
				}
				if sort == "definition" {
					p := w.pod("pod").DeepCopy()
					p.Spec.Containers[0].Image = "server:2"
					if _, err := w.cluster.Update(t.Context(), p, ""); err != nil {
						t.Fatal(err)
					}
				} else {
					w.delete("pod", nil)
				}
				w.settle(29 * time.Second)
				if after := w.unhealthy("pod"); after != before {
					t.Errorf("%d failures told while it was being stopped", after-before)
				}
				if w.pod("pod") == nil {
					t.Error("it stopped too soon for the test to show anything")
				}
			})
		})
	}
}

// TestEndingPodsAreAskedForReadiness: a pod that ends serves until its containers say that they do not.
func TestEndingPodsAreAskedForReadiness(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("tired:1") // not ready from the fifteenth second on
		spec.Containers[0].ReadinessProbe = probeEvery(1, 1)
		w.create("pod", spec)
		w.settle(5 * time.Second)
		w.delete("pod", nil)
		w.settle(5 * time.Second)
		w.want("pod", "Running ready main=running")
		w.settle(5 * time.Second)
		w.want("pod", "Running main=running")
		if n := w.unhealthy("pod"); n != 0 {
			t.Errorf("%d failures told of a container that is being stopped", n)
		}
	})
}

// TestNothingIsToldOfADyingExec: a container that ends takes the command of its probe with it.
func TestNothingIsToldOfADyingExec(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("frail:1")
		spec.RestartPolicy = corev1.RestartPolicyNever
		spec.Containers[0].ReadinessProbe = probeEvery(1, 3)
		w.create("pod", spec)
		w.settle(10 * time.Second)
		w.want("pod", "Failed main=Error(1)")
		if got := w.events("pod"); strings.Contains(got, "Unhealthy") {
			t.Errorf("events:\n%s", got)
		}
	})
}
