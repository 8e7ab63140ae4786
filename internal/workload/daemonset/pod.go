package daemonset

import (
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/workload/claim"
	"coracle/internal/workload/placement"
)

// always are the tolerations every daemon pod gets: node problems and cordons do not drive daemons
// away (DaemonSet concept page, "Taints and tolerations").
var always = []corev1.Toleration{
	exists(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute),
	exists(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute),
	exists(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule),
	exists(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule),
	exists(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule),
	exists(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule),
}

// alwaysOnHost has also the one for pods that do not need the pod network.
var alwaysOnHost = append(slices.Clone(always), exists(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule))

func exists(key string, effect corev1.TaintEffect) corev1.Toleration {
	return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
}

func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	if spec.HostNetwork {
		return alwaysOnHost
	}
	return always
}

// newPod returns the pod of a template for a node. failures counts those that failed there before
// it. Nothing that is changed is shared with the template.
func newPod(ds *appsv1.DaemonSet, template *corev1.PodTemplateSpec, hash, node string, failures int) *corev1.Pod {
	t := template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       ds.Namespace,
			GenerateName:    ds.Name + "-",
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{claim.Reference(ds)},
		},
		Spec: t.Spec,
	}
	if pod.Labels == nil {
		pod.Labels = make(map[string]string, 2)
	}
	pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	if generation := ds.Annotations[generationAnnotation]; generation != "" && template == &ds.Spec.Template {
		pod.Labels[generationLabel] = generation
	}
	if failures > 0 {
		if pod.Annotations == nil {
			pod.Annotations = make(map[string]string, 1)
		}
		pod.Annotations[Failures] = strconv.Itoa(failures)
	}
	for _, more := range tolerations(&pod.Spec) {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(have corev1.Toleration) bool { return have.MatchToleration(&more) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, more)
		}
	}
	pin(&pod.Spec, node)
	return pod
}

// pin makes the scheduler bind a pod to one node: the required node affinity becomes the node's
// name. The template's own terms have been asked already, and may stop matching later without
// harm.
func pin(spec *corev1.PodSpec, node string) {
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{
				Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
			}},
		}},
	}
}

// nodeOf returns the node a daemon pod is on or is pinned to; empty for a pod that is neither.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	return placement.Pinned(&pod.Spec)
}

// hashOf returns the revision hash a pod carries; empty for one that carries none.
func hashOf(o metav1.Object) string { return o.GetLabels()[appsv1.DefaultDaemonSetUniqueLabelKey] }

func withLabel(have map[string]string, key, value string) map[string]string {
	next := maps.Clone(have)
	if next == nil {
		next = make(map[string]string, 1)
	}
	next[key] = value
	return next
}
