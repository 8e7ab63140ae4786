// Package daemonset decides how a DaemonSet comes to its pods: on which nodes there is one, at which
// revision each is, in which order they are replaced, and what the status says.
//
// It owns those decisions as one pure function of a snapshot (see Controller). It refuses to place
// pods: it pins each to its node by node affinity, and the scheduler binds it.
//
// Behaviour is that of Kubernetes v1.37 (apps/v1 API documentation; KEP-1591 surge), with additions
// by annotation. docs/design lists the deliberate differences.
package daemonset

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/placement"
	"coracle/internal/workload/refusal"
	"coracle/internal/workload/revision"
	"coracle/internal/workload/routed"
	"coracle/internal/workload/succession"
)

// Annotations that ask for more than Kubernetes does. While one of the first three holds a node
// back, a pod that is made there is made at the revision that the held nodes run.
const (
	// Paused, when "true", stops the rolling update where it is.
	Paused = "coracle.io/paused"
	// CanarySelector is a label selector on nodes, in the text form of kubectl -l: the rolling
	// update reaches only these nodes.
	CanarySelector = "coracle.io/canary-selector"
	// Partition is how many nodes, or how many percent of them (rounded up), stay at the old
	// revision: the last ones by name.
	Partition = "coracle.io/partition"
	// Failures, on a daemon pod, counts the pods that failed on its node one after the other
	// before it. The backoff is read off it, so that no memory is needed.
	Failures = "coracle.io/daemon-failures"
)

// generationAnnotation is where apps/v1 keeps the template generation of the extensions API.
const generationAnnotation = "deprecated.daemonset.template.generation"

// generationLabel is the pods' copy of it.
const generationLabel = "pod-template-generation"

const controllerName = "daemonset-controller"

// Controller returns the DaemonSet planner.
func Controller() plan.Controller {
	return plan.Controller{
		Name: controllerName,
		For:  resource.DaemonSets,
		Watches: append([]plan.Watch{
			claim.Watch(resource.Pods, resource.DaemonSets, Selector, alike),
			revision.Watch(resource.DaemonSets, Selector),
			{Resource: resource.Nodes, Keys: nodeKeys},
		}, append(refusal.Watches(resource.DaemonSets, lacks), routed.Watches("DaemonSet")...)...),
		Indexes:     append(diagnose.Indexes(), routed.Indexes()...),
		Summaries:   []object.Summary{claim.Orphans(resource.Pods)},
		Digests:     []object.Digest{digest},
		Successions: []plan.Succession{{Resource: resource.ControllerRevisions, Of: succession.Of("DaemonSet")}},
		Plan:        Plan,
	}
}

// lacks says that a daemon is missing somewhere, by the status.
func lacks(o object.Object) bool {
	ds, ok := o.(*appsv1.DaemonSet)
	return ok && (ds.Status.ObservedGeneration < ds.Generation || ds.Status.CurrentNumberScheduled < ds.Status.DesiredNumberScheduled ||
		ds.Status.UpdatedNumberScheduled < ds.Status.DesiredNumberScheduled)
}

func alike(before, after object.Object) bool {
	a, ok1 := before.(*corev1.Pod)
	b, ok2 := after.(*corev1.Pod)
	return ok1 && ok2 && podstate.Alike(a, b)
}

// Selector reads which pods a DaemonSet calls its own.
func Selector(o object.Object) (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(o.(*appsv1.DaemonSet).Spec.Selector)
}

// nodeKeys: a node that comes or goes bears on every DaemonSet, one that changes on those whose
// answer to it changes. Heartbeats, images, resources and addresses bear on none.
func nodeKeys(r object.Reader, before, after object.Object) []object.Key {
	old, _ := before.(*corev1.Node)
	node, _ := after.(*corev1.Node)
	if old != nil && node != nil && sameNode(old, node) {
		return nil
	}
	var keys []object.Key
	for _, o := range r.List(resource.DaemonSets, "") {
		ds, ok := o.(*appsv1.DaemonSet)
		if ok && (old == nil || node == nil || touches(ds, old, node)) {
			keys = append(keys, object.KeyOf(ds))
		}
	}
	return keys
}

// sameNode says whether two states of a node are the same in all that any DaemonSet looks at.
func sameNode(a, b *corev1.Node) bool {
	return nodestate.Ready(a) == nodestate.Ready(b) && maps.Equal(a.Labels, b.Labels) && sameTaints(a.Spec.Taints, b.Spec.Taints)
}

func sameTaints(a, b []corev1.Taint) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.Taint) bool {
		return x.Key == y.Key && x.Value == y.Value && x.Effect == y.Effect
	})
}

// touches says whether a DaemonSet's answer to a node changed, or the readiness of a node that it
// has a pod on.
func touches(ds *appsv1.DaemonSet, old, node *corev1.Node) bool {
	rules := placement.Compile(&ds.Spec.Template.Spec, tolerations(&ds.Spec.Template.Spec)...)
	was, is := rules.Ask(old), rules.Ask(node)
	if was.Cause != is.Cause || was.Stays != is.Stays || placement.TaintText(was.Taint) != placement.TaintText(is.Taint) {
		return true
	}
	if _, canary := ds.Annotations[CanarySelector]; canary && !maps.Equal(old.Labels, node.Labels) {
		return true
	}
	return nodestate.Ready(old) != nodestate.Ready(node) && (is.Cause == placement.Fits || is.Stays)
}
