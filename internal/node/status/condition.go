package status

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/fit"
	"coracle/internal/node/podsync"
)

// Condition reasons, upstream's words.
const (
	notInitialized = "ContainersNotInitialized"
	notReady       = "ContainersNotReady"
	gatesNotReady  = "ReadinessGatesNotReady"
	podCompleted   = "PodCompleted"
	podFailed      = "PodFailed"
	failedMount    = "FailedMount"
	failedSandbox  = "FailedCreatePodSandBox"
	// Reasons of a pod that also make it a disruption target.
	evicted    = "Evicted"
	preempting = fit.Preempting
)

func (c *composer) conditions(st *corev1.PodStatus) {
	sandbox := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}
	if box := c.in.World.Newest(); box != nil && box.Ready {
		sandbox.Status = corev1.ConditionTrue
	} else if !c.ending {
		sandbox.Reason, sandbox.Message = c.held()
	}
	initialized := c.initialized(st)
	containers := c.containersReady(st)
	ready := containers
	ready.Type = corev1.PodReady
	if containers.Status == corev1.ConditionTrue {
		ready = c.gates(st)
	}
	scheduled := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}
	if c.verdict != nil && (c.verdict.Reason == evicted || c.verdict.Reason == preempting) {
		c.set(st, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: c.verdict.Message,
		})
	}
	for _, cond := range []corev1.PodCondition{sandbox, initialized, ready, containers, scheduled} {
		c.set(st, cond)
	}
}

// held says what holds the pod up before any container can start, by the reason of its event or a word of package cause; empty
// for nothing.
func (c *composer) held() (reason, message string) {
	if f, failed := c.in.Failures[(podsync.MountVolumes{}).Key()]; failed && !c.in.Mounted {
		return failedMount, f.Message
	}
	if f, failed := c.in.Failures[(podsync.RunSandbox{}).Key()]; failed {
		return cmp.Or(f.Reason, failedSandbox), f.Message
	}
	return "", ""
}

func (c *composer) initialized(st *corev1.PodStatus) corev1.PodCondition {
	cond := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if st.Phase == corev1.PodSucceeded {
		cond.Reason = podCompleted
		return cond
	}
	if podsync.MainStarted(c.in.Pod, c.in.World) {
		return cond
	}
	var waiting []string
	for i := range c.in.Pod.Spec.InitContainers {
		spec, cs := &c.in.Pod.Spec.InitContainers[i], &st.InitContainerStatuses[i]
		done := cs.Ready
		if podsync.IsSidecar(spec) {
			done = cs.Started != nil && *cs.Started
		}
		if !done {
			waiting = append(waiting, spec.Name)
		}
	}
	if len(waiting) > 0 {
		cond.Status, cond.Reason = corev1.ConditionFalse, notInitialized
		cond.Message = fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(waiting, " "))
	}
	return cond
}

func (c *composer) containersReady(st *corev1.PodStatus) corev1.PodCondition {
	cond := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch st.Phase {
	case corev1.PodSucceeded:
		cond.Reason = podCompleted
		return cond
	case corev1.PodFailed:
		cond.Reason = podFailed
		return cond
	}
	var unready []string
	for i := range c.in.Pod.Spec.InitContainers {
		if podsync.IsSidecar(&c.in.Pod.Spec.InitContainers[i]) && !st.InitContainerStatuses[i].Ready {
			unready = append(unready, st.InitContainerStatuses[i].Name)
		}
	}
	for _, cs := range st.ContainerStatuses {
		if !cs.Ready {
			unready = append(unready, cs.Name)
		}
	}
	if len(unready) > 0 {
		cond.Reason = notReady
		cond.Message = fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
		return cond
	}
	cond.Status = corev1.ConditionTrue
	return cond
}

// gates is the Ready condition of a pod whose containers are ready (KEP-580).
func (c *composer) gates(st *corev1.PodStatus) corev1.PodCondition {
	cond := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue}
	var messages []string
	for _, gate := range c.in.Pod.Spec.ReadinessGates {
		switch have := find(st, gate.ConditionType); {
		case have == nil:
			messages = append(messages, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case have.Status != corev1.ConditionTrue:
			messages = append(messages, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %s", gate.ConditionType, have.Status))
		}
	}
	if len(messages) > 0 {
		cond.Status, cond.Reason = corev1.ConditionFalse, gatesNotReady
		cond.Message = strings.Join(messages, ", ")
	}
	return cond
}

func find(st *corev1.PodStatus, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			return &st.Conditions[i]
		}
	}
	return nil
}

// set puts a condition in; its transition time moves only when its status does.
func (c *composer) set(st *corev1.PodStatus, cond corev1.PodCondition) {
	cond.ObservedGeneration = c.in.Pod.Generation
	have := find(st, cond.Type)
	if have == nil {
		cond.LastTransitionTime = metav1.NewTime(c.in.Now).Rfc3339Copy()
		st.Conditions = append(st.Conditions, cond)
		return
	}
	cond.LastProbeTime = have.LastProbeTime
	cond.LastTransitionTime = have.LastTransitionTime
	if have.Status != cond.Status || have.LastTransitionTime.IsZero() {
		cond.LastTransitionTime = metav1.NewTime(c.in.Now).Rfc3339Copy()
	}
	*have = cond
}
