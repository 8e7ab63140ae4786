package simnode

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/fit"
	"coracle/internal/podstate"
)

// outcome is what has become of a pod's containers, all of which fare alike.
type outcome struct {
	// waiting is why they do not run; runningSince is since when they do.
	waiting      *corev1.ContainerStateWaiting
	runningSince time.Time
	ready        bool
	// exit is how they have just ended; restarts says that they run again since.
	exit     *corev1.ContainerStateTerminated
	restarts bool
	// phase, when set, is the last one.
	phase corev1.PodPhase
	// stopped says that they were told to end, and did.
	stopped bool
	// refusal is why they are never to run, evicted why they run no more.
	refusal *fit.Refusal
	evicted string
}

// compose returns the status of a pod with an outcome. What others own is carried over.
func compose(in Input, o outcome) *corev1.PodStatus {
	pod := in.Pod
	if o.stopped {
		o = stop(in, o)
	}
	st := pod.Status // its slices are replaced, never written into
	st.ObservedGeneration = pod.Generation
	if st.StartTime == nil {
		now := second(in.Now)
		st.StartTime = &now
	}
	if o.refusal == nil {
		network(&st, in)
	}
	switch {
	case o.phase != "":
		st.Phase = o.phase
	case !o.runningSince.IsZero() || o.exit != nil:
		st.Phase = corev1.PodRunning
	case st.Phase == "":
		st.Phase = corev1.PodPending
	}
	if o.refusal != nil { // there are no containers to show
		st.Reason, st.Message = o.refusal.Reason, o.refusal.Status()
		st.InitContainerStatuses, st.ContainerStatuses = nil, nil
		st.Conditions = conditions(in, o, &st)
		return &st
	}
	if o.evicted != "" {
		st.Reason, st.Message = "Evicted", o.evicted
	}
	st.InitContainerStatuses = initStatuses(in, o)
	if len(pod.Spec.InitContainers) > 0 && startedAt(&pod.Status).IsZero() {
		o.waiting = initializing(o.waiting) // what it is that keeps the first one, it says itself
	}
	st.ContainerStatuses = make([]corev1.ContainerStatus, len(pod.Spec.Containers))
	for i := range pod.Spec.Containers {
		st.ContainerStatuses[i] = container(in, o, &pod.Spec.Containers[i], before(pod.Status.ContainerStatuses, i))
	}
	st.Conditions = conditions(in, o, &st)
	return &st
}

// stop is the outcome of containers that end because their pod was deleted.
func stop(in Input, o outcome) outcome {
	o.phase = corev1.PodFailed
	if started := startedAt(&in.Pod.Status); !started.IsZero() {
		o.phase = corev1.PodSucceeded
		o.exit = &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: second(started), FinishedAt: second(in.Now)}
	} else {
		o.waiting = &corev1.ContainerStateWaiting{Reason: creating}
	}
	return o
}

func network(st *corev1.PodStatus, in Input) {
	hosts := hostAddresses(in.Node)
	if len(hosts) > 0 && st.HostIP == "" {
		st.HostIP, st.HostIPs = hosts[0], nil
		for _, host := range hosts {
			st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: host})
		}
	}
	if st.PodIP != "" {
		return
	}
	var ips []string
	switch {
	case in.Pod.Spec.HostNetwork:
		ips = hosts
	case in.Address.IsValid():
		ips = podAddresses(in.Node, in.Address)
	}
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		st.PodIP = ips[0]
	}
}

// podAddresses are the address that a pod was given, and those at the same place in the node's other ranges.
func podAddresses(node *corev1.Node, given netip.Addr) []string {
	out := []string{given.String()}
	ranges := Ranges(node)
	for i := 1; i < len(ranges); i++ {
		first, at := ranges[0].Addr().As16(), given.As16()
		place := binary.BigEndian.Uint32(at[12:]) - binary.BigEndian.Uint32(first[12:])
		other := ranges[i].Addr().As16()
		binary.BigEndian.PutUint32(other[12:], binary.BigEndian.Uint32(other[12:])+place)
		out = append(out, netip.AddrFrom16(other).Unmap().String())
	}
	return out
}

func hostAddresses(node *corev1.Node) (out []string) {
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			out = append(out, a.Address)
		}
	}
	return out
}

func before(list []corev1.ContainerStatus, i int) *corev1.ContainerStatus {
	if i < len(list) {
		return &list[i]
	}
	return nil
}

const scheme = "simulated://"

var yes, no = true, false

// container composes the status of a container that serves.
func container(in Input, o outcome, spec *corev1.Container, old *corev1.ContainerStatus) corev1.ContainerStatus {
	cs := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: &no}
	if r := &spec.Resources; len(r.Requests)+len(r.Limits)+len(r.Claims) > 0 {
		cs.Resources, cs.AllocatedResources = r, r.Requests // shared: a status is only read
	}
	if old != nil {
		cs.RestartCount, cs.LastTerminationState = old.RestartCount, old.LastTerminationState
		cs.ImageID, cs.ContainerID = old.ImageID, old.ContainerID
	}
	if o.runningSince.IsZero() && o.exit == nil {
		cs.State.Waiting = o.waiting
		return cs
	}
	cs.ImageID = spec.Image
	last := cs.ContainerID
	if o.restarts {
		cs.RestartCount++
	}
	if last == "" || o.restarts {
		cs.ContainerID = containerID(in.Pod, spec, cs.RestartCount)
	}
	if o.exit != nil {
		ended := *o.exit
		ended.ContainerID = last
		switch {
		case o.phase != "":
			cs.State.Terminated = &ended
			return cs
		case o.restarts:
			cs.LastTerminationState = corev1.ContainerState{Terminated: &ended}
		default:
			cs.LastTerminationState = corev1.ContainerState{Terminated: &ended}
			cs.State.Waiting = o.waiting
			return cs
		}
	}
	cs.State.Running = &corev1.ContainerStateRunning{StartedAt: second(o.runningSince)}
	if old != nil && old.State.Running != nil && old.Image != spec.Image {
		replaced(in, &cs, spec, old)
	}
	cs.Started, cs.Ready = &yes, o.ready
	return cs
}

// replaced shows a running container whose image was changed: it ended, and runs again.
func replaced(in Input, cs *corev1.ContainerStatus, spec *corev1.Container, old *corev1.ContainerStatus) {
	cs.RestartCount = old.RestartCount + 1
	cs.ContainerID = containerID(in.Pod, spec, cs.RestartCount)
	cs.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Reason: "Completed", StartedAt: old.State.Running.StartedAt, FinishedAt: second(in.Now), ContainerID: old.ContainerID,
	}}
	cs.State.Running = &corev1.ContainerStateRunning{StartedAt: second(in.Now)}
}

// containerID is the same for the same run of a container.
func containerID(pod *corev1.Pod, spec *corev1.Container, run int32) string {
	id := scheme + string(pod.UID) + "/" + spec.Name
	if run > 0 {
		id += "/" + strconv.Itoa(int(run))
	}
	return id
}

const creating = "ContainerCreating"

// initializing is why a container waits whose turn comes after an init container's; nil when it
// does not wait.
func initializing(waiting *corev1.ContainerStateWaiting) *corev1.ContainerStateWaiting {
	if waiting == nil {
		return nil
	}
	return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
}

// initStatuses shows init containers as done once the pod runs, and sidecars as what they are.
func initStatuses(in Input, o outcome) []corev1.ContainerStatus {
	specs := in.Pod.Spec.InitContainers
	if len(specs) == 0 {
		return nil
	}
	if o.waiting != nil && o.waiting.Reason == creating {
		o.waiting = initializing(o.waiting)
	}
	out := make([]corev1.ContainerStatus, len(specs))
	for i := range specs {
		if i == 1 {
			o.waiting = initializing(o.waiting)
		}
		spec, old := &specs[i], before(in.Pod.Status.InitContainerStatuses, i)
		switch {
		case spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways:
			out[i] = sidecar(in, o, spec, old)
		case old != nil && old.State.Terminated != nil:
			out[i] = *old
		default:
			out[i] = container(in, outcome{waiting: o.waiting}, spec, old)
			if !o.runningSince.IsZero() {
				at := second(o.runningSince)
				out[i].ImageID, out[i].ContainerID, out[i].Ready = spec.Image, containerID(in.Pod, spec, 0), true
				out[i].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					Reason: "Completed", StartedAt: at, FinishedAt: at, ContainerID: out[i].ContainerID,
				}}
			}
		}
	}
	return out
}

// sidecar composes the status of an init container that stays: it neither crashes nor finishes
// with the others, and ends with the pod.
func sidecar(in Input, o outcome, spec *corev1.Container, old *corev1.ContainerStatus) corev1.ContainerStatus {
	switch {
	case o.phase != "" && o.exit != nil:
		ended := *o.exit
		ended.ExitCode, ended.Reason = 0, "Completed"
		return container(in, outcome{exit: &ended, phase: o.phase}, spec, old)
	case old != nil && old.State.Running != nil:
		return container(in, outcome{runningSince: old.State.Running.StartedAt.Time, ready: true}, spec, old)
	}
	return container(in, outcome{waiting: o.waiting, runningSince: o.runningSince, ready: true}, spec, old)
}

// conditions returns the pod's conditions: the kubelet's own, then those that others own.
func conditions(in Input, o outcome, st *corev1.PodStatus) []corev1.PodCondition {
	out := make([]corev1.PodCondition, len(in.Pod.Status.Conditions), max(len(in.Pod.Status.Conditions), 5))
	copy(out, in.Pod.Status.Conditions)
	set := func(c corev1.PodCondition) {
		c.ObservedGeneration, c.LastTransitionTime = in.Pod.Generation, second(in.Now)
		for i := range out {
			if have := &out[i]; have.Type == c.Type {
				c.LastProbeTime = have.LastProbeTime
				if have.Status == c.Status && !have.LastTransitionTime.IsZero() {
					c.LastTransitionTime = have.LastTransitionTime
				}
				*have = c
				return
			}
		}
		out = append(out, c)
	}
	begun := st.Phase == corev1.PodRunning || st.Phase == corev1.PodSucceeded || o.exit != nil
	set(when(corev1.PodReadyToStartContainers, o.phase == "" && st.PodIP != "", "", ""))
	set(when(corev1.PodInitialized, begun || len(in.Pod.Spec.InitContainers) == 0, "ContainersNotInitialized", unfinished(in.Pod)))
	containers := when(corev1.ContainersReady, o.ready, "ContainersNotReady", unready(in.Pod))
	switch o.phase {
	case corev1.PodSucceeded:
		containers.Reason, containers.Message = "PodCompleted", ""
	case corev1.PodFailed:
		containers.Reason, containers.Message = "PodFailed", ""
	}
	set(containers)
	ready := containers
	ready.Type = corev1.PodReady
	if o.ready {
		ready = gates(in.Pod)
	}
	set(ready)
	set(corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	if o.evicted != "" {
		set(corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: corev1.PodReasonTerminationByKubelet, Message: o.evicted})
	}
	return out
}

// when is a condition that holds, or does not for a reason.
func when(kind corev1.PodConditionType, holds bool, reason, message string) corev1.PodCondition {
	if holds {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue}
	}
	return corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message}
}

// gates is the Ready condition of a pod whose containers are ready (KEP-580).
func gates(pod *corev1.Pod) corev1.PodCondition {
	var closed []string
	for _, gate := range pod.Spec.ReadinessGates {
		switch have := podstate.Condition(pod, gate.ConditionType); {
		case have == nil:
			closed = append(closed, `corresponding condition of pod readiness gate "`+string(gate.ConditionType)+`" does not exist.`)
		case have.Status != corev1.ConditionTrue:
			closed = append(closed, `the status of pod readiness gate "`+string(gate.ConditionType)+`" is not "True", but `+string(have.Status))
		}
	}
	return when(corev1.PodReady, len(closed) == 0, "ReadinessGatesNotReady", strings.Join(closed, ", "))
}

func unready(pod *corev1.Pod) string {
	return "containers with unready status: [" + names(pod.Spec.Containers) + "]"
}

func unfinished(pod *corev1.Pod) string {
	return "containers with incomplete status: [" + names(pod.Spec.InitContainers) + "]"
}

func names(containers []corev1.Container) string {
	if len(containers) == 1 {
		return containers[0].Name
	}
	out := make([]string, len(containers))
	for i := range containers {
		out[i] = containers[i].Name
	}
	return strings.Join(out, " ")
}
