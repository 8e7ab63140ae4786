// Package status says what a pod's status is: a pure function from what the runtime has for the
// pod to the corev1.PodStatus that users see.
//
// It owns phases, container states, conditions and their reasons, in upstream's words
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/). It refuses to decide
// anything (package podsync) and to write anything (package node). Conditions that others own,
// such as PodScheduled and readiness gates, are carried over untouched.
package status

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/node/podsync"
)

// Host is what a status says of the node.
type Host struct {
	IPs []string
	// Scheme goes before container IDs: the runtime's name.
	Scheme string
	// RecursiveReadOnly: the runtime can make mounts read-only with all that is mounted below them.
	RecursiveReadOnly bool
}

// Of returns the status of a pod. Busy starts, failures and probes are those the decision saw.
func Of(in *podsync.Input, host Host) corev1.PodStatus {
	c := composer{in: in, host: host, old: &in.Pod.Status}
	c.verdict = podsync.Verdict(in)
	c.ending = podsync.Ending(*in)
	st := c.old.DeepCopy()
	c.containers(st)
	c.network(st)
	c.phase(st)
	if st.StartTime == nil {
		now := metav1.NewTime(in.Now).Rfc3339Copy()
		st.StartTime = &now
	}
	st.QOSClass = in.Pod.Status.QOSClass
	if st.QOSClass == "" {
		st.QOSClass = QOS(in.Pod)
	}
	st.ObservedGeneration = in.Pod.Generation
	c.conditions(st)
	if st.Phase == corev1.PodFailed && st.Reason != "" && neverRan(st.InitContainerStatuses) && neverRan(st.ContainerStatuses) {
		// A pod that was refused has no containers to show: what they wait for would be shown in place of the reason.
		st.InitContainerStatuses, st.ContainerStatuses = nil, nil
	}
	return *st
}

// neverRan says that containers wait, and always did.
func neverRan(list []corev1.ContainerStatus) bool {
	return !slices.ContainsFunc(list, func(s corev1.ContainerStatus) bool {
		return s.State.Waiting == nil || s.LastTerminationState.Terminated != nil
	})
}

// Equal says whether two statuses tell the same.
func Equal(a, b *corev1.PodStatus) bool { return equality.Semantic.DeepEqual(a, b) }

type composer struct {
	in      *podsync.Input
	host    Host
	old     *corev1.PodStatus
	verdict *podsync.Stop
	ending  bool
}

func (c *composer) network(st *corev1.PodStatus) {
	st.HostIP, st.HostIPs = "", nil
	for _, ip := range c.host.IPs {
		st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(c.host.IPs) > 0 {
		st.HostIP = c.host.IPs[0]
	}
	box := c.in.World.Newest()
	var ips []string
	switch {
	case c.in.Pod.Spec.HostNetwork:
		ips = c.host.IPs
	case box != nil && len(box.IPs) > 0:
		ips = box.IPs
	default:
		return // keep the address last known
	}
	st.PodIP, st.PodIPs = "", nil
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		st.PodIP = ips[0]
	}
}

// phase sets phase, reason and message. A final phase is told only when nothing runs any more,
// and is never taken back.
func (c *composer) phase(st *corev1.PodStatus) {
	if podsync.Terminal(c.old.Phase) {
		return
	}
	alive := c.alive()
	st.Phase = c.livePhase()
	done, succeeded := podsync.Outcome(c.in.Pod, c.in.World)
	switch {
	case alive || !c.ending:
	case c.verdict != nil:
		st.Phase = corev1.PodFailed
	case done && succeeded:
		st.Phase = corev1.PodSucceeded
	case done, c.in.Pod.DeletionTimestamp != nil:
		st.Phase = c.endPhase()
	}
	if c.verdict != nil {
		st.Reason, st.Message = c.verdict.Reason, c.verdict.Message
	}
}

// endPhase is the final phase of a pod that was told to end.
func (c *composer) endPhase() corev1.PodPhase {
	for i := range c.in.Pod.Spec.Containers {
		last := podsync.Latest(c.in.Pod, c.in.World, c.in.Pod.Spec.Containers[i].Name)
		if last == nil || last.ExitCode != 0 {
			return corev1.PodFailed
		}
	}
	return corev1.PodSucceeded
}

func (c *composer) alive() bool {
	for i := range c.in.World.Containers {
		if c.in.World.Containers[i].State != podsync.Exited {
			return true
		}
	}
	for key := range c.in.Busy {
		if key == (podsync.RunSandbox{}).Key() {
			return true
		}
	}
	for i := range c.in.Pod.Spec.Containers {
		if c.in.Starting(c.in.Pod.Spec.Containers[i].Name) {
			return true
		}
	}
	return false
}

// livePhase is Running once initialization is over and a main container has run, else Pending.
func (c *composer) livePhase() corev1.PodPhase {
	if c.old.Phase == corev1.PodRunning {
		return corev1.PodRunning
	}
	pod := c.in.Pod
	for i := range pod.Spec.Containers {
		last := podsync.Latest(pod, c.in.World, pod.Spec.Containers[i].Name)
		if last != nil && (last.State == podsync.Running || last.State == podsync.Exited) {
			return corev1.PodRunning
		}
	}
	return corev1.PodPending
}

// QOS returns a pod's quality-of-service class
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/).
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	guaranteed, any := true, false
	each := func(r *corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			any = any || !request.IsZero() || !limit.IsZero()
			if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
				guaranteed = false
			}
		}
	}
	if pod.Spec.Resources != nil {
		each(pod.Spec.Resources)
	} else {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				each(&list[i].Resources)
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// Waiting returns a container's waiting reason in a status, or "".
func Waiting(st *corev1.PodStatus, container string) string {
	for _, list := range [][]corev1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses} {
		i := slices.IndexFunc(list, func(s corev1.ContainerStatus) bool { return s.Name == container })
		if i >= 0 && list[i].State.Waiting != nil {
			return list[i].State.Waiting.Reason
		}
	}
	return ""
}
