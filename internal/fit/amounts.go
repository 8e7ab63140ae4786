package fit

import (
	corev1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"
)

// Amounts is a sum of resources. CPU is in thousandths of a core, the others in bytes or counts.
type Amounts struct {
	CPU, Memory, Ephemeral int64
	Pods                   int64
	// Other holds extended resources and huge pages.
	Other map[corev1.ResourceName]int64
}

// AmountsOf reads a list of resources.
func AmountsOf(list corev1.ResourceList) Amounts {
	var a Amounts
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.CPU = q.MilliValue()
		case corev1.ResourceMemory:
			a.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			a.Ephemeral = q.Value()
		case corev1.ResourcePods:
			a.Pods = q.Value()
		default:
			if a.Other == nil {
				a.Other = map[corev1.ResourceName]int64{}
			}
			a.Other[name] = q.Value()
		}
	}
	return a
}

// RequestOf is what a pod's containers ask for, init containers and overhead included; the pod itself is not counted.
func RequestOf(pod *corev1.Pod) Amounts {
	return AmountsOf(podresource.PodRequests(pod, podresource.PodResourcesOptions{}))
}

// Add adds b's resources (not its pod count), times sign.
func (a *Amounts) Add(b Amounts, sign int64) {
	a.CPU += sign * b.CPU
	a.Memory += sign * b.Memory
	a.Ephemeral += sign * b.Ephemeral
	for name, v := range b.Other {
		if a.Other == nil {
			a.Other = map[corev1.ResourceName]int64{}
		}
		a.Other[name] += sign * v
	}
}

// Shortage is a resource of which a node has too little left for a pod, with the amounts in the units of Amounts.
type Shortage struct {
	Resource              corev1.ResourceName
	Want, Used, Allowable int64
}

// Short returns the first resource of which too little is left for one more pod that asks for want: pods, CPU, memory,
// ephemeral storage, then the others by name, so that equal worlds give equal words.
func Short(want, used, allocatable *Amounts) (Shortage, bool) {
	if used.Pods+1 > allocatable.Pods {
		return Shortage{corev1.ResourcePods, 1, used.Pods, allocatable.Pods}, true
	}
	switch {
	case want.CPU > 0 && used.CPU+want.CPU > allocatable.CPU:
		return Shortage{corev1.ResourceCPU, want.CPU, used.CPU, allocatable.CPU}, true
	case want.Memory > 0 && used.Memory+want.Memory > allocatable.Memory:
		return Shortage{corev1.ResourceMemory, want.Memory, used.Memory, allocatable.Memory}, true
	case want.Ephemeral > 0 && used.Ephemeral+want.Ephemeral > allocatable.Ephemeral:
		return Shortage{corev1.ResourceEphemeralStorage, want.Ephemeral, used.Ephemeral, allocatable.Ephemeral}, true
	}
	var lacking Shortage
	for name, n := range want.Other {
		if n > 0 && used.Other[name]+n > allocatable.Other[name] && (lacking.Resource == "" || name < lacking.Resource) {
			lacking = Shortage{name, n, used.Other[name], allocatable.Other[name]}
		}
	}
	return lacking, lacking.Resource != ""
}
