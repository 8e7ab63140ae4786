package why

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/resource"

	"coracle/internal/object"
	"coracle/internal/podstate"
	known "coracle/internal/resource"
)

// summary says in a few words how an object is; "" for kinds of which there is nothing to say.
func summary(r object.Reader, obj object.Object) string {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return fmt.Sprintf("%d of %d pods available, %d up to date", o.Status.AvailableReplicas, asked(o.Spec.Replicas), o.Status.UpdatedReplicas)
	case *appsv1.ReplicaSet:
		return fmt.Sprintf("%d of %d pods available", o.Status.AvailableReplicas, asked(o.Spec.Replicas))
	case *corev1.ReplicationController:
		return fmt.Sprintf("%d of %d pods available", o.Status.AvailableReplicas, asked(o.Spec.Replicas))
	case *appsv1.StatefulSet:
		return fmt.Sprintf("%d of %d pods available, %d up to date", o.Status.AvailableReplicas, asked(o.Spec.Replicas), o.Status.UpdatedReplicas)
	case *appsv1.DaemonSet:
		s := o.Status
		text := fmt.Sprintf("%d of %d pods available, %d up to date", s.NumberAvailable, s.DesiredNumberScheduled, s.UpdatedNumberScheduled)
		if s.NumberMisscheduled > 0 {
			text += fmt.Sprintf(", %d on nodes where none belongs", s.NumberMisscheduled)
		}
		return text
	case *corev1.Pod:
		return podSummary(o)
	case *corev1.PersistentVolumeClaim:
		class := "no storage class"
		if c := o.Spec.StorageClassName; c != nil && *c != "" {
			class = "storage class " + *c
		}
		return fmt.Sprintf("%s, %s", phase(string(o.Status.Phase)), class)
	case *corev1.PersistentVolume:
		return phase(string(o.Status.Phase))
	case *storagev1.StorageClass:
		return "provisioner " + o.Provisioner
	case *corev1.Node:
		return nodeSummary(o)
	case *corev1.ResourceQuota:
		return quotaSummary(o)
	case *networkingv1.ServiceCIDR:
		used, all := addressesUsed(r, o)
		return fmt.Sprintf("services have %d of its %d addresses", used, all)
	case *corev1.Namespace:
		return phase(string(o.Status.Phase))
	}
	return ""
}

func phase(p string) string {
	if p == "" {
		return "Pending"
	}
	return p
}

func asked(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

func podSummary(p *corev1.Pod) string {
	ready, restarts := 0, int32(0)
	for i := range p.Status.ContainerStatuses {
		s := &p.Status.ContainerStatuses[i]
		restarts += s.RestartCount
		if s.Ready {
			ready++
		}
	}
	text := phase(string(p.Status.Phase))
	if p.Spec.NodeName != "" {
		text += " on node " + p.Spec.NodeName
	}
	text += fmt.Sprintf(", %d of %d containers ready", ready, len(p.Spec.Containers))
	if restarts > 0 {
		text += fmt.Sprintf(", %d restarts", restarts)
	}
	return text
}

// shortage says, where the scheduler found too little of a resource, what a pod asks for and the
// most that a node has free of it. A user's question may scan the pods; no decision does.
func shortage(r object.Reader, pod *corev1.Pod, message string) string {
	wants := resource.PodRequests(pod, resource.PodResourcesOptions{})
	var short []corev1.ResourceName
	for _, name := range sortedNames(wants) {
		if strings.Contains(message, "Insufficient "+string(name)) {
			short = append(short, name)
		}
	}
	if len(short) == 0 {
		return ""
	}
	free := map[string]corev1.ResourceList{}
	var order []string
	for _, o := range r.List(known.Nodes, "") {
		if n, ok := o.(*corev1.Node); ok {
			free[n.Name] = n.Status.Allocatable.DeepCopy()
			order = append(order, n.Name)
		}
	}
	for _, o := range r.List(known.Pods, "") {
		p, ok := o.(*corev1.Pod)
		if !ok || free[p.Spec.NodeName] == nil || podstate.Ended(p) {
			continue
		}
		for name, q := range resource.PodRequests(p, resource.PodResourcesOptions{}) {
			left := free[p.Spec.NodeName][name]
			left.Sub(q)
			free[p.Spec.NodeName][name] = left
		}
	}
	text := ""
	for _, name := range short {
		want := wants[name]
		best := ""
		for _, node := range order {
			have, most := free[node][name], free[best][name]
			if best == "" || have.Cmp(most) > 0 {
				best = node
			}
		}
		most := free[best][name]
		text += fmt.Sprintf("It asks for %s %s; the most that a node has free is %s (%s). ", want.String(), name, most.String(), best)
	}
	return text[:len(text)-1]
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
