package behind

import (
	"cmp"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// The indexes by which services and their pods find each other, whatever else their namespace holds.
const (
	podsByLabel        = "behind.label"
	servicesBySelector = "behind.selector"
)

// PodIndexes are what a Reader must have for Pods and Selecting.
func PodIndexes() []object.Index {
	return []object.Index{
		{Resource: resource.Pods, Name: podsByLabel, Values: labelValues},
		{Resource: resource.Services, Name: servicesBySelector, Values: selectorValue},
	}
}

// told says whether pods are filed under a label. Those by which controllers count their pods' revisions tell nobody's pods
// from the others of a service, and each would be one more entry for each pod of the cluster.
func told(label string) bool {
	return label != appsv1.DefaultDeploymentUniqueLabelKey && label != appsv1.ControllerRevisionHashLabelKey && label != appsv1.PodIndexLabel
}

func labelled(namespace, label, value string) string { return namespace + "/" + label + "=" + value }

func labelValues(o object.Object) []string {
	labels := o.GetLabels()
	out := make([]string, 0, len(labels))
	for k, v := range labels {
		if told(k) {
			out = append(out, labelled(o.GetNamespace(), k, v))
		}
	}
	return out
}

// selectorValue files a service under the first label that it wants of its pods.
func selectorValue(o object.Object) []string {
	selector := o.(*corev1.Service).Spec.Selector
	if len(selector) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(selector)))
	return []string{labelled(o.GetNamespace(), first, selector[first])}
}

// Selecting returns the services that select a pod, in order of their names.
func Selecting(r object.Reader, pod *corev1.Pod) []*corev1.Service {
	var out []*corev1.Service
	for k, v := range pod.Labels {
		for _, o := range r.Indexed(resource.Services, servicesBySelector, labelled(pod.Namespace, k, v)) {
			if s := o.(*corev1.Service); Selects(s, pod) {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Service) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Selects says whether a service selects a pod of its namespace.
func Selects(s *corev1.Service, p *corev1.Pod) bool {
	if len(s.Spec.Selector) == 0 {
		return false
	}
	for k, v := range s.Spec.Selector {
		if have, ok := p.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// Pods are those that a service selects, in order of their names.
func Pods(r object.Reader, s *corev1.Service) []*corev1.Pod {
	near, all := nearest(r, s)
	out := make([]*corev1.Pod, 0, len(near))
	for _, o := range near {
		if p := o.(*corev1.Pod); all || Selects(s, p) {
			out = append(out, p)
		}
	}
	return out
}

// nearest returns the fewest objects among which all pods of a service are, in order of their names; exact says that it selects
// each of them.
func nearest(r object.Reader, s *corev1.Service) (fewest []object.Object, exact bool) {
	found := false
	for k, v := range s.Spec.Selector {
		if !told(k) {
			continue
		}
		if all := r.Indexed(resource.Pods, podsByLabel, labelled(s.Namespace, k, v)); !found || len(all) < len(fewest) {
			fewest, found = all, true
		}
	}
	if !found {
		return r.List(resource.Pods, s.Namespace), false
	}
	return fewest, len(s.Spec.Selector) == 1
}

// Rolls says whether some of a service's pods are of another revision of their template than others: a rollout is on its way, or
// there are several sorts of pods.
func Rolls(pods []*corev1.Pod) bool {
	first := ""
	for i, p := range pods {
		of := cmp.Or(p.Labels[appsv1.DefaultDeploymentUniqueLabelKey], p.Labels[appsv1.ControllerRevisionHashLabelKey])
		if i > 0 && of != first {
			return true
		}
		first = of
	}
	return false
}
