package endpoint

import (
	"cmp"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
	"coracle/internal/resource"
)

// The indexes by which services and their pods find each other, whatever else their namespace holds.
const (
	podsByLabel        = "endpoint-pods-by-label"
	servicesBySelector = "endpoint-services-by-selector"
)

func indexes() []plan.Index {
	return []plan.Index{
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

func labelValues(o plan.Object) []string {
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
func selectorValue(o plan.Object) []string {
	selector := o.(*corev1.Service).Spec.Selector
	if len(selector) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(selector)))
	return []string{labelled(o.GetNamespace(), first, selector[first])}
}

// servicesOf asks for the services whose endpoints a pod's change alters.
func servicesOf(r plan.Reader, before, after plan.Object) []plan.Key {
	was, _ := before.(*corev1.Pod)
	is, _ := after.(*corev1.Pod)
	if !altered(was, is) {
		return nil
	}
	keys := selecting(r, is, nil)
	if was != nil && (is == nil || !maps.Equal(was.Labels, is.Labels)) {
		keys = selecting(r, was, keys)
	}
	slices.SortFunc(keys, func(a, b plan.Key) int { return cmp.Compare(a.Name, b.Name) })
	return keys
}

// selecting appends the services that select a pod, each once.
func selecting(r plan.Reader, pod *corev1.Pod, keys []plan.Key) []plan.Key {
	if pod == nil {
		return keys
	}
	for k, v := range pod.Labels {
		for _, o := range r.Indexed(resource.Services, servicesBySelector, labelled(pod.Namespace, k, v)) {
			if s := o.(*corev1.Service); selects(s, pod) && !slices.Contains(keys, plan.KeyOf(s)) {
				keys = append(keys, plan.KeyOf(s))
			}
		}
	}
	return keys
}

func selects(s *corev1.Service, p *corev1.Pod) bool {
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

// podsOf reads the pods of a service that have an address and have not ended.
func podsOf(r plan.Reader, s *corev1.Service) []*corev1.Pod {
	near, all := nearest(r, s)
	out := make([]*corev1.Pod, 0, len(near))
	for _, o := range near {
		if p := o.(*corev1.Pod); stands(p) && (all || selects(s, p)) {
			out = append(out, p)
		}
	}
	return out
}

// nearest returns the fewest objects among which all pods of a service are, in order of their names; exact says that it selects
// each of them.
func nearest(r plan.Reader, s *corev1.Service) (fewest []plan.Object, exact bool) {
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
