package why

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"

	"coracle/internal/object"
	"coracle/internal/workload"
)

func progressSummary(p workload.Progress) string {
	text := fmt.Sprintf("%d of %d pods available", p.Available, p.Wanted)
	if p.Revisions {
		text += fmt.Sprintf(", %d up to date", p.Updated)
	}
	if p.Misplaced > 0 {
		text += fmt.Sprintf(", %d on nodes where none belongs", p.Misplaced)
	}
	return text
}

// summary says in a few words how an object is; "" for kinds of which there is nothing to say.
func summary(r object.Reader, obj object.Object) string {
	if k := workload.Of(obj); k != nil {
		return progressSummary(k.Progress(obj))
	}
	switch o := obj.(type) {
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
		used, all, _ := addressesUsed(r, o, false)
		used6, all6, _ := addressesUsed(r, o, true)
		return fmt.Sprintf("services have %d of its %d addresses", used+used6, all+all6)
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

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
