// Package diagnose says why one pod is not yet what its controller waits for, as the next link of
// an explanation (plan.Wait).
//
// It owns the order in which the causes are asked (termination, scheduling and claims, images and
// crashes, probes, minReadySeconds) and their sentences. Texts that the scheduler, the node or the
// API already wrote are passed on, not reworded. It refuses to decide anything.
package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	ephemeralvolume "k8s.io/component-helpers/storage/ephemeral"

	"coracle/internal/cause"
	"coracle/internal/drain"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podclaim"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/placement"
)

// Verdict is what holds a pod up.
type Verdict struct {
	plan.Wait
	// Stuck says that it will not pass without the user.
	Stuck bool
}

// Pod explains a pod that exists, as a wait on that pod. Call it for a pod that is not available for
// minReady seconds at now; for an available one the answer has no meaning.
func Pod(r object.Reader, pod *corev1.Pod, minReady int32, now time.Time) Verdict {
	v := Cause(r, pod, minReady, now)
	v.On = object.RefOf(pod)
	return v
}

// Cause is Pod as the pod itself would say it: a wait on what the pod waits for, such as a claim or a
// node, or on the pod where there is nothing beyond it.
func Cause(r object.Reader, pod *corev1.Pod, minReady int32, now time.Time) Verdict {
	for _, ask := range []func(object.Reader, *corev1.Pod, time.Time) (Verdict, bool){
		terminating, ended, unscheduled, nodeLost, unclaimed, held, containers, notReady,
	} {
		if v, found := ask(r, pod, now); found {
			if v.On == (object.Ref{}) {
				v.On = object.RefOf(pod)
			}
			return v
		}
	}
	v := Verdict{Wait: plan.Wait{Reason: "MinReadySeconds", On: object.RefOf(pod)}}
	if podstate.Available(pod, minReady, now) {
		v.Reason = "NotRouted"
		limit, _ := drain.Bound(pod) // a bound that cannot be read is the default one
		v.Message = fmt.Sprintf("pod %s is ready; its rollout counts it once every node leads the connections of its services to it, or %g seconds later",
			pod.Name, limit.Seconds())
		return v
	}
	v.Message = fmt.Sprintf("pod %s is ready, and must stay so for %d seconds to count as available", pod.Name, minReady)
	if c := podstate.Condition(pod, corev1.PodReady); c != nil {
		v.Since = c.LastTransitionTime.Time
	}
	return v
}

func terminating(r object.Reader, pod *corev1.Pod, now time.Time) (Verdict, bool) {
	if pod.DeletionTimestamp == nil {
		return Verdict{}, false
	}
	v := Verdict{}
	v.Reason, v.Message = "Terminating", fmt.Sprintf("pod %s is terminating", pod.Name)
	v.Since = pod.DeletionTimestamp.Time
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		v.Since = v.Since.Add(-time.Duration(*g) * time.Second)
	}
	if node, gone, lost := Host(r, pod); gone {
		if len(pod.Finalizers) == 0 {
			v.Message = fmt.Sprintf("pod %s is terminating; its node %s no longer exists, and it is removed without it", pod.Name, pod.Spec.NodeName)
			return v, true
		}
	} else if lost {
		v.Reason, v.Stuck = "NodeUnreachable", true
		v.Message = fmt.Sprintf("pod %s is terminating, but its node %s is not ready to confirm it", pod.Name, pod.Spec.NodeName)
		v.Hint = "bring the node back; or, once it is certain that the node is off, taint it node.kubernetes.io/out-of-service or delete the pod with --force --grace-period=0"
		v.On = object.RefOf(node)
		return v, true
	}
	if _, gone, _ := Host(r, pod); len(pod.Finalizers) > 0 && (gone || now.After(pod.DeletionTimestamp.Time)) {
		v.Reason = "FinalizersRemaining"
		v.Message = fmt.Sprintf("pod %s is terminating and waits for its finalizers: %s", pod.Name, strings.Join(pod.Finalizers, ", "))
		v.Hint = "the controllers that set the finalizers must remove them"
	}
	return v, true
}

// Host returns the pod's node; lost says that it is gone or not ready.
func Host(r object.Reader, pod *corev1.Pod) (node *corev1.Node, gone, lost bool) {
	if pod.Spec.NodeName == "" {
		return nil, false, false
	}
	obj, ok := r.Get(resource.Nodes, "", pod.Spec.NodeName)
	if !ok {
		return nil, true, true
	}
	node, _ = obj.(*corev1.Node)
	ready := nodestate.Ready(node)
	return node, false, !ready
}

func ended(_ object.Reader, pod *corev1.Pod, _ time.Time) (Verdict, bool) {
	if !podstate.Ended(pod) {
		return Verdict{}, false
	}
	v := Verdict{}
	v.Reason = string(pod.Status.Phase)
	if pod.Status.Reason != "" {
		v.Reason = pod.Status.Reason
	}
	v.Message = fmt.Sprintf("pod %s has ended (%s)", pod.Name, pod.Status.Phase)
	if pod.Status.Message != "" {
		v.Message += ": " + pod.Status.Message
	}
	if pod.Status.Reason == "SysctlForbidden" {
		v.Hint = "leave the sysctl out of the pod's securityContext, or allow it on the nodes: coracle down --keep-data, then coracle up --allowed-unsafe-sysctls"
	}
	return v, true
}

func unscheduled(r object.Reader, pod *corev1.Pod, _ time.Time) (Verdict, bool) {
	if pod.Spec.NodeName != "" {
		return Verdict{}, false
	}
	v := Verdict{}
	v.Reason, v.Message = "NotScheduled", fmt.Sprintf("pod %s has no node yet", pod.Name)
	v.Since = pod.CreationTimestamp.Time
	if len(pod.Spec.SchedulingGates) > 0 {
		return gated(pod), true
	}
	if name := pod.Spec.SchedulerName; name != "" && name != corev1.DefaultSchedulerName {
		return otherScheduler(pod), true
	}
	if c := podstate.Condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		v.Reason, v.Since = c.Reason, c.LastTransitionTime.Time
		v.Message = fmt.Sprintf("pod %s cannot be scheduled: %s", pod.Name, c.Message)
		if node := placement.Pinned(&pod.Spec); node != "" {
			v.On = object.Ref{Resource: resource.Nodes, Key: object.Key{Name: node}}
		}
	}
	if claim, why, found := claimInTheWay(r, pod); found {
		v.Reason, v.Message = "ClaimNotBound", fmt.Sprintf("pod %s: %s", pod.Name, why)
		v.On, v.Hint = claim, ""
	}
	return v, true
}

// claimInTheWay finds a claim that cannot bind whatever the scheduler does: one that is absent,
// lost, or pending though it does not wait for a pod to be placed.
func claimInTheWay(r object.Reader, pod *corev1.Pod) (object.Ref, string, bool) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name := podclaim.Of(pod, v)
		if name == "" {
			continue
		}
		ref := object.Ref{Resource: resource.PersistentVolumeClaims, Key: object.Key{Namespace: pod.Namespace, Name: name}}
		obj, ok := r.Get(ref.Resource, ref.Namespace, ref.Name)
		claim, _ := obj.(*corev1.PersistentVolumeClaim)
		switch {
		case (!ok || claim == nil) && v.Ephemeral != nil:
			return ref, fmt.Sprintf("claim %s of its ephemeral volume %s is not made yet; the pod's events say if it cannot be", name, v.Name), true
		case !ok || claim == nil:
			return ref, fmt.Sprintf("claim %s does not exist", name), true
		case v.Ephemeral != nil && ephemeralvolume.VolumeIsForPod(pod, claim) != nil:
			return object.RefOf(claim), fmt.Sprintf("its ephemeral volume %s needs a claim of the name %s, but one is there that was not made for it: "+
				"delete that claim, or give the pod or the volume another name", v.Name, name), true
		case claim.DeletionTimestamp != nil:
			return object.RefOf(claim), fmt.Sprintf("claim %s is being deleted", claim.Name), true
		case claim.Status.Phase == corev1.ClaimLost:
			return object.RefOf(claim), fmt.Sprintf("claim %s has lost its volume", claim.Name), true
		case claim.Status.Phase == corev1.ClaimBound || claim.Spec.VolumeName != "":
			continue
		}
		class := claim.Spec.StorageClassName
		if class == nil || *class == "" {
			return object.RefOf(claim), fmt.Sprintf("claim %s is not bound and names no storage class", claim.Name), true
		}
		obj, ok = r.Get(resource.StorageClasses, "", *class)
		sc, _ := obj.(*storagev1.StorageClass)
		if !ok || sc == nil {
			return object.RefOf(claim), fmt.Sprintf("claim %s is not bound: storage class %q does not exist", claim.Name, *class), true
		}
		if sc.VolumeBindingMode == nil || *sc.VolumeBindingMode == storagev1.VolumeBindingImmediate {
			return object.RefOf(claim), fmt.Sprintf("claim %s is not bound yet (storage class %s)", claim.Name, *class), true
		}
	}
	return object.Ref{}, "", false
}

// unclaimed says of a pod that has its node which claim it waits for: it named the node itself, so no scheduler saw to
// the claim first.
func unclaimed(r object.Reader, pod *corev1.Pod, _ time.Time) (Verdict, bool) {
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodRunning {
		return Verdict{}, false
	}
	claim, why, found := claimInTheWay(r, pod)
	for i := range pod.Spec.Volumes {
		name := podclaim.Of(pod, &pod.Spec.Volumes[i])
		if found || name == "" {
			continue
		}
		obj, _ := r.Get(resource.PersistentVolumeClaims, pod.Namespace, name)
		if c, _ := obj.(*corev1.PersistentVolumeClaim); c != nil && c.Status.Phase != corev1.ClaimBound {
			claim, found = object.RefOf(c), true
			why = fmt.Sprintf("claim %s is not bound yet; it is bound for node %s, which the pod names", c.Name, pod.Spec.NodeName)
		}
	}
	if !found {
		return Verdict{}, false
	}
	v := Verdict{}
	v.Reason, v.Message, v.On, v.Since = "ClaimNotBound", fmt.Sprintf("pod %s: %s", pod.Name, why), claim, pod.CreationTimestamp.Time
	return v, true
}

func nodeLost(r object.Reader, pod *corev1.Pod, _ time.Time) (Verdict, bool) {
	node, gone, lost := Host(r, pod)
	if !lost {
		return Verdict{}, false
	}
	v := Verdict{}
	v.Reason, v.Message = "NodeNotReady", fmt.Sprintf("pod %s is on node %s, which is not ready", pod.Name, pod.Spec.NodeName)
	if gone {
		// The pod collector deletes it without being asked.
		v.Reason, v.Message = "NodeGone", fmt.Sprintf("pod %s is on node %s, which no longer exists; it is deleted for that", pod.Name, pod.Spec.NodeName)
		return v, true
	}
	v.On = object.RefOf(node)
	if c := nodestate.Condition(node, corev1.NodeReady); c != nil {
		v.Since = c.LastTransitionTime.Time
		if c.Message != "" {
			v.Message += ": " + c.Message
		}
	}
	return v, true
}

// hopeless reasons of a waiting container do not pass by themselves, or rarely.
var hopeless = map[string]string{
	"ErrImagePull":               "check the image's name and tag, and that it was imported or can be pulled",
	"ImagePullBackOff":           "check the image's name and tag, and that it was imported or can be pulled",
	"ErrImageNeverPull":          "import the image, or change imagePullPolicy",
	"InvalidImageName":           "correct the image's name",
	"CreateContainerConfigError": "",
	"CreateContainerError":       "",
	cause.VolumeNotMapped: "keep the volume's files on a file system with idmapped mounts (ext4, xfs, btrfs, tmpfs)," +
		" or leave hostUsers out",
	cause.UserNotMapped: "give runAsUser, runAsGroup, fsGroup and supplementalGroups ids below 65536," +
		" or leave hostUsers out",
	cause.MountsStayInside: "take mountPropagation: Bidirectional away, or leave hostUsers out",
	"RunContainerError":    "check the command, the mounts and the security context",
}

func containers(r object.Reader, pod *corev1.Pod, _ time.Time) (Verdict, bool) {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if v, found := crashed(r, pod, &s); found {
			return v, true
		}
		w := s.State.Waiting
		if w == nil || w.Reason == "" || w.Reason == "PodInitializing" || w.Reason == "ContainerCreating" && w.Message == "" {
			continue
		}
		hint, stuck := hopeless[w.Reason]
		if w.Reason == "CreateContainerConfigError" {
			hint = configHint(pod, s.Name)
		}
		if w.Reason == "NetworkPolicyNotReady" { // it passes when the node is told, or can write
			hint = "the pod starts by itself once its node has the rules of network policies; the node's log says what keeps it from writing them"
		}
		v := Verdict{Stuck: stuck}
		v.Reason, v.Hint = w.Reason, hint
		if c := podstate.Condition(pod, corev1.ContainersReady); c != nil && c.Status == corev1.ConditionFalse {
			v.Since = c.LastTransitionTime.Time
		}
		v.Message = fmt.Sprintf("pod %s: container %s: %s", pod.Name, s.Name, w.Reason)
		if w.Message != "" {
			v.Message += ": " + w.Message
		}
		if t := s.LastTerminationState.Terminated; t != nil {
			v.Since = t.FinishedAt.Time
			v.Message += fmt.Sprintf(" (last exit code %d, %s, %d restarts)", t.ExitCode, t.Reason, s.RestartCount)
		}
		return v, true
	}
	return Verdict{}, false
}

func notReady(r object.Reader, pod *corev1.Pod, _ time.Time) (Verdict, bool) {
	c := podstate.Condition(pod, corev1.PodReady)
	if c != nil && c.Status == corev1.ConditionTrue && pod.Status.Phase == corev1.PodRunning {
		return Verdict{}, false
	}
	v := Verdict{}
	v.Reason, v.Since = "Starting", pod.CreationTimestamp.Time
	v.Message = fmt.Sprintf("pod %s is starting on node %s", pod.Name, pod.Spec.NodeName)
	if pod.Status.Phase != corev1.PodRunning {
		if failing, found := unmade(r, pod); found {
			return failing, true
		}
		return v, true
	}
	v.Reason, v.Message = "NotReady", fmt.Sprintf("pod %s is running but not ready", pod.Name)
	if c != nil {
		v.Since = c.LastTransitionTime.Time
		if c.Reason != "" {
			v.Reason = c.Reason
		}
		if c.Message != "" {
			v.Message += ": " + c.Message
		}
	}
	var names []string
	for i := range pod.Status.ContainerStatuses {
		if s := &pod.Status.ContainerStatuses[i]; !s.Ready && s.State.Running != nil && probed(pod, s.Name) {
			names = append(names, s.Name)
		}
	}
	if len(names) > 0 {
		v.Hint = "the readiness or startup probe of " + strings.Join(names, ", ") + " does not pass; kubectl describe pod shows its answers"
		if text := answer(r, pod, v.Since); text != "" {
			v.Message += "; " + text
		}
	}
	return v, true
}

func probed(pod *corev1.Pod, container string) bool {
	for i := range pod.Spec.Containers {
		if c := &pod.Spec.Containers[i]; c.Name == container {
			return c.ReadinessProbe != nil || c.StartupProbe != nil
		}
	}
	return false
}
