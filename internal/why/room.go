package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helper "k8s.io/component-helpers/resource"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/scheduler/place"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/placement"
)

// tried is how many nodes are tried for one remedy: what helps on none of so many is not offered.
const tried = 64

// trial asks the scheduler's own rules whether a change would give a pod its place. Nothing is changed by asking.
type trial struct {
	r     object.Reader
	pod   *corev1.Pod
	nodes []*corev1.Node
	// ending are the pods that are on nodes and being deleted.
	ending []*place.Pod
	// state has the nodes and what runs on them; empty has the nodes alone.
	state, empty *place.State
}

// unschedulable says what can be done for a pod that fits on no node: those remedies alone that would help.
func (w *walk) unschedulable(pod *corev1.Pod, v *diagnose.Verdict) {
	if len(pod.Spec.SchedulingGates) > 0 {
		return
	}
	t := w.trial(pod)
	now := t.state.Place(t.state.NewPod(pod), t.r, "")
	if text := t.shortage(t.lacking(now)); text != "" {
		v.Message += " " + text
	}
	if now.Node != "" {
		v.Message += fmt.Sprintf(" There is room on node %s now: the scheduler looks again by itself.", now.Node)
		return
	}
	if leaving := t.leaving(); leaving != nil {
		v.Message += fmt.Sprintf(" There is room on node %s when pod %s is gone, which is being deleted.", leaving.Spec.NodeName, leaving.Name)
		v.On = object.RefOf(leaving)
		return
	}
	if hints := t.remedies(); len(hints) > 0 {
		v.Hint = strings.Join(hints, "; or ")
	} else if all := t.inTheWay(now); all != "" {
		v.Hint = "no single change is enough; all of these are in the way: " + all
	}
}

// trial is the cluster as the scheduler sees it, made once for all pods of an answer.
func (w *walk) trial(pod *corev1.Pod) *trial {
	if w.room == nil {
		w.room = &trial{r: w.r, state: place.NewState(), empty: place.NewState()}
		for _, s := range []*place.State{w.room.state, w.room.empty} {
			for _, o := range w.r.List(resource.Namespaces, "") {
				s.SetNamespace(o.GetName(), o.GetLabels())
			}
		}
		for _, o := range w.r.List(resource.Nodes, "") {
			if n, ok := o.(*corev1.Node); ok {
				w.room.nodes = append(w.room.nodes, n)
				w.room.state.SetNode(n)
				w.room.empty.SetNode(n)
			}
		}
		for _, o := range w.r.List(resource.Pods, "") {
			p, ok := o.(*corev1.Pod)
			if ok && p.Spec.NodeName != "" && !podstate.Ended(p) {
				counted := w.room.state.NewPod(p)
				w.room.state.AddPod(counted, p.Spec.NodeName)
				if p.DeletionTimestamp != nil {
					w.room.ending = append(w.room.ending, counted)
				}
			}
		}
	}
	w.room.pod = pod
	return w.room
}

// fits returns the node that a pod would be given; "" when there is none.
func (t *trial) fits(s *place.State, pod *corev1.Pod) string {
	return s.Place(s.NewPod(pod), t.r, "").Node
}

// leaving returns a pod that is being deleted from the node that the pod will then be given; nil when that is not enough.
func (t *trial) leaving() *corev1.Pod {
	if len(t.ending) == 0 {
		return nil
	}
	for _, p := range t.ending {
		t.state.RemovePod(p.UID)
	}
	node := t.fits(t.state, t.pod)
	for _, p := range t.ending {
		t.state.AddPod(p, p.Object.Spec.NodeName)
	}
	for _, p := range t.ending {
		if p.Object.Spec.NodeName == node {
			return p.Object
		}
	}
	return nil
}

// with says whether the pod would fit if a node were another, or there were one more.
func (t *trial) with(node *corev1.Node) bool {
	before := slices.IndexFunc(t.nodes, func(n *corev1.Node) bool { return n.Name == node.Name })
	t.state.SetNode(node)
	found := t.fits(t.state, t.pod)
	if before >= 0 {
		t.state.SetNode(t.nodes[before])
	} else {
		t.state.RemoveNode(node.Name)
	}
	return found == node.Name
}

// changed says whether the pod would fit if it asked for less.
func (t *trial) changed(change func(*corev1.PodSpec)) bool {
	pod := t.pod.DeepCopy()
	change(&pod.Spec)
	return t.fits(t.state, pod) != ""
}

// remedies are what would help, each by itself; what costs least comes first.
func (t *trial) remedies() (hints []string) {
	hints = append(hints, t.uncordon()...)
	hints = append(hints, t.tolerate()...)
	pinned := placement.Pinned(&t.pod.Spec) != ""
	if !pinned && t.changed(func(s *corev1.PodSpec) { s.NodeSelector = nil; dropNodeAffinity(s) }) {
		hints = append(hints, "label a node as the pod's nodeSelector or affinity asks, or change these")
	}
	if t.changed(dropRequests) {
		hints = append(hints, "lower the pod's requests")
	}
	if t.changed(dropPorts) {
		hints = append(hints, "free the host port on a node")
	} else if node := t.fits(t.empty, t.pod); node != "" && t.changed(dropRequests) {
		hints = append(hints, "free resources on node "+node)
	}
	for _, rule := range rules {
		if t.changed(rule.drop) {
			hints = append(hints, rule.hint)
		}
	}
	if !pinned {
		hints = append(hints, t.add()...)
	}
	return hints
}

// uncordon finds a node that would take the pod if it were not cordoned.
func (t *trial) uncordon() []string {
	for _, n := range t.nodes[:min(tried, len(t.nodes))] {
		if !n.Spec.Unschedulable {
			continue
		}
		open := n.DeepCopy()
		open.Spec.Unschedulable = false
		open.Spec.Taints = slices.DeleteFunc(open.Spec.Taints, func(x corev1.Taint) bool { return x.Key == corev1.TaintNodeUnschedulable })
		if t.with(open) {
			return []string{"kubectl uncordon " + n.Name}
		}
	}
	return nil
}

// tolerate finds the taints that are all that keeps the pod off a node. One that tells a node's condition is no user's to
// tolerate: the node must be mended.
func (t *trial) tolerate() (hints []string) {
	seen := map[string]bool{}
	for _, n := range t.nodes[:min(tried, len(t.nodes))] {
		for i := range n.Spec.Taints {
			taint := &n.Spec.Taints[i]
			text := placement.TaintText(taint)
			condition := strings.HasPrefix(taint.Key, "node.kubernetes.io/")
			if seen[text] || taint.Key == corev1.TaintNodeUnschedulable || placement.Tolerates(t.pod.Spec.Tolerations, taint) {
				continue
			}
			bare := n.DeepCopy()
			bare.Spec.Taints = slices.DeleteFunc(bare.Spec.Taints, func(x corev1.Taint) bool { return x.Key == taint.Key && x.Effect == taint.Effect })
			if !t.with(bare) {
				continue
			}
			seen[text] = true
			hint := fmt.Sprintf("add a toleration of %s to the pod, or remove the taint (kubectl taint node %s %s:%s-)", text, n.Name, taint.Key, taint.Effect)
			if condition {
				hint = fmt.Sprintf("mend the node that is tainted by its condition: %s (%s)", n.Name, text)
			}
			hints = append(hints, hint)
		}
	}
	return hints
}

// add tries a node like one of those there are, then one as large as the pod asks for.
func (t *trial) add() []string {
	for _, n := range t.nodes[:min(tried, len(t.nodes))] {
		if t.with(blank(n)) {
			return []string{"add a node (one like " + n.Name + " is enough)"}
		}
	}
	for _, n := range t.nodes[:min(tried, len(t.nodes))] {
		large, wants := blank(n), helper.PodRequests(t.pod, helper.PodResourcesOptions{})
		var parts []string
		for _, name := range sortedNames(wants) {
			if have := large.Status.Allocatable[name]; have.Cmp(wants[name]) < 0 {
				want := wants[name]
				large.Status.Allocatable[name] = want
				parts = append(parts, want.String()+" "+string(name))
			}
		}
		if len(parts) > 0 && t.with(large) {
			return []string{"add a larger node: none there is has " + strings.Join(parts, ", ") + " even when it is empty"}
		}
	}
	if len(t.nodes) == 0 {
		return []string{"add a node: there is none"}
	}
	return nil
}

// blank is a new node like another, in perfect health and with nothing on it.
func blank(like *corev1.Node) *corev1.Node {
	n := like.DeepCopy()
	n.ObjectMeta = metav1.ObjectMeta{Name: "a-new-node-like-" + like.Name, Labels: n.Labels}
	if n.Labels != nil {
		n.Labels[corev1.LabelHostname] = n.Name
	}
	n.Spec.Unschedulable = false
	n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return strings.HasPrefix(t.Key, "node.kubernetes.io/") })
	if n.Status.Allocatable == nil {
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: apires.MustParse("1")}
	}
	return n
}
