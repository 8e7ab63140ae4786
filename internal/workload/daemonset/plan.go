package daemonset

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/placement"
	"coracle/internal/workload/revision"
	"coracle/internal/workload/routed"
)

// spot is one node, and the set's pods that are on it or pinned to it.
type spot struct {
	node    *corev1.Node
	verdict placement.Verdict
	// pods are the best first: bound before unbound, then older, then by name.
	pods []*corev1.Pod
	// fresh says that the best pod is of the present template; see decision.fresh.
	fresh bool
	// held says that the rolling update shall not reach the node.
	held bool
	// lost says that the node was not ready before the rollout began.
	lost bool
}

// wanted says whether the node shall have a pod.
func (s *spot) wanted() bool { return s.verdict.Cause == placement.Fits }

// decision is the making of one plan.
type decision struct {
	in  plan.Input
	set *appsv1.DaemonSet
	led *routed.Book
	out plan.Plan

	history revision.History
	hash    string // of the present revision
	// heldAt is the revision that held nodes run; the present one when they run no other.
	heldAt *appsv1.ControllerRevision

	// spots are the nodes to look at, in order of their names. All others are in rest.
	spots []spot
	rest  rest
	// nodes is how many there are, desired how many shall have a pod.
	nodes, desired int
	rules          *placement.Rules
	// strays are the pods of nodes that do not exist.
	strays []*corev1.Pod

	deletes, creates []plan.Action
	waits            []plan.Wait
	notes            []plan.Wait // said, but not waited for
	faults           []string    // what is wrong with the annotations
	ending           bool        // the namespace is terminating
	stuck            bool
}

// Plan decides the next step for one DaemonSet. It is pure. One that does not exist, or is being
// deleted, needs nothing: its dependents are the garbage collector's.
func Plan(in plan.Input) plan.Plan {
	obj, ok := in.Reader.Get(resource.DaemonSets, in.Key.Namespace, in.Key.Name)
	set, _ := obj.(*appsv1.DaemonSet)
	if !ok || set == nil || set.DeletionTimestamp != nil {
		return plan.Plan{}
	}
	d := &decision{in: in, set: set, led: routed.New(in.Reader, in.Now)}
	d.run()
	waits := append(d.waits, d.unavailable()...)
	diagnose.Conclude(&d.out, in, object.RefOf(set), waits, d.notes, d.stuck)
	return d.out
}

func (d *decision) run() {
	selector, err := Selector(d.set)
	if err != nil {
		d.refuse("InvalidSpec", err)
		return
	}
	if selector.Empty() {
		d.refuse("SelectingAll", fmt.Errorf("This daemon set is selecting all pods. A non-empty selector is required.")) //nolint:staticcheck // upstream's sentence
		return
	}
	spec := &d.set.Spec.Template.Spec
	d.rules = placement.Compile(spec, tolerations(spec)...)
	atlas := d.atlas(selector)
	pods, settled := d.lister(selector, atlas == nil)
	if !settled || !d.readHistory(selector, pods) {
		return
	}
	if atlas != nil {
		d.read(atlas)
	} else {
		d.survey(pods())
	}
	d.hold()
	var w plan.Wait
	if w, d.ending = diagnose.Ending(d.in.Reader, d.set.Namespace); d.ending {
		d.wait(w)
	}
	d.manage()
	if len(d.deletes)+len(d.creates) == 0 {
		d.roll()
	}
	// Deletions come first: they make room for what is created.
	d.out.Actions = append(d.deletes, d.creates...)
	d.forget(pods)
	d.status()
}

// lister returns what lists the set's pods, which is done at once, or when somebody asks and nothing is to be adopted
// or released; false when something is.
func (d *decision) lister(selector labels.Selector, now bool) (list func() []*corev1.Pod, settled bool) {
	if now {
		pods, settled := d.claimPods(selector)
		return func() []*corev1.Pod { return pods }, settled
	}
	return func() []*corev1.Pod {
		pods, _ := d.claimPods(selector)
		return pods
	}, true
}

// claimPods lists the set's pods; false when some must first be adopted or released.
func (d *decision) claimPods(selector labels.Selector) ([]*corev1.Pod, bool) {
	mine, edits := claim.Objects(d.in.Reader, resource.Pods, claim.Owner{Object: d.set, Selector: selector}, nil)
	d.out.Actions = append(d.out.Actions, edits...)
	pods := make([]*corev1.Pod, 0, len(mine))
	for _, o := range mine {
		if pod, ok := o.(*corev1.Pod); ok && !gone(pod) {
			pods = append(pods, pod)
		}
	}
	return pods, len(edits) == 0
}

// survey puts nodes and pods together, and asks each node whether it shall have a pod.
func (d *decision) survey(pods []*corev1.Pod) {
	nodes := d.in.Reader.List(resource.Nodes, "")
	d.spots = make([]spot, 0, len(nodes))
	place := make(map[string]int, len(nodes))
	for _, o := range nodes {
		node, ok := o.(*corev1.Node)
		if !ok {
			continue
		}
		s := d.spotOf(node)
		d.nodes++
		if s.wanted() {
			d.desired++
		}
		place[node.Name] = len(d.spots)
		d.spots = append(d.spots, s)
	}
	for i, pod := range pods {
		name := nodeOf(pod)
		at, exists := place[name]
		if !exists {
			if name != "" {
				d.strays = append(d.strays, pod)
			}
			continue
		}
		// The list itself serves the nodes that have a single pod, which are nearly all.
		if s := &d.spots[at]; s.pods == nil {
			s.pods = pods[i : i+1 : i+1]
		} else {
			s.pods = append(s.pods, pod)
			slices.SortFunc(s.pods, better)
		}
	}
	for i := range d.spots {
		if s := &d.spots[i]; len(s.pods) > 0 {
			s.fresh = d.present(s.pods[0].Labels)
		}
	}
}

// spotOf is a node as the set sees it, without pods.
func (d *decision) spotOf(node *corev1.Node) spot {
	s := spot{node: node, verdict: d.rules.Ask(node)}
	if !nodestate.Ready(node) {
		c := nodestate.Condition(node, corev1.NodeReady)
		s.lost = c == nil || c.LastTransitionTime.Time.Before(revision.Since(d.history.Present))
	}
	return s
}

// fresh is present for a pod of a node. The answer for the best pod, nearly always the only one, is
// kept: labels of thousands of pods are far apart in memory.
func (d *decision) fresh(s *spot, pod *corev1.Pod) bool {
	if pod == s.pods[0] {
		return s.fresh
	}
	return d.present(pod.Labels)
}

// better orders pods of one node: bound first, then older, then by name.
func better(a, b *corev1.Pod) int {
	if (a.Spec.NodeName != "") != (b.Spec.NodeName != "") {
		if a.Spec.NodeName != "" {
			return -1
		}
		return 1
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// present says whether a pod of these labels is of the present template: by its revision hash, or, for pods from
// before revisions, by the template generation.
func (d *decision) present(of map[string]string) bool {
	if hash := of[appsv1.DefaultDaemonSetUniqueLabelKey]; hash != "" {
		return hash == d.hash
	}
	generation := d.set.Annotations[generationAnnotation]
	return generation != "" && of[generationLabel] == generation
}

func (d *decision) available(pod *corev1.Pod) bool {
	return podstate.Available(pod, d.set.Spec.MinReadySeconds, d.in.Now) && d.led.Until(pod).IsZero()
}

func (d *decision) wait(w plan.Wait) { d.waits = append(d.waits, w) }

// again asks for another look no later than at.
func (d *decision) again(at time.Time) {
	if d.out.Again.IsZero() || at.Before(d.out.Again) {
		d.out.Again = at
	}
}

// refuse ends the decision: nothing can be done until the user changes the set.
func (d *decision) refuse(reason string, err error) {
	d.stuck = true
	d.wait(plan.Wait{Reason: reason, Message: err.Error(), On: object.RefOf(d.set), Hint: "correct the DaemonSet"})
	d.tell(corev1.EventTypeWarning, reason, err.Error())
}

// fault notes an annotation that cannot be obeyed.
func (d *decision) fault(err error, consequence string) {
	d.stuck = true
	d.faults = append(d.faults, err.Error())
	d.wait(plan.Wait{Reason: "InvalidAnnotation", Message: err.Error() + consequence, On: object.RefOf(d.set), Hint: "correct or remove the annotation"})
}

func (d *decision) tell(kind, reason, message string) {
	d.out.Events = append(d.out.Events, plan.Event{Regarding: object.RefOf(d.set), Type: kind, Reason: reason, Message: message})
}

func (d *decision) event(kind, reason, message string) *plan.Event {
	return &plan.Event{Regarding: object.RefOf(d.set), Type: kind, Reason: reason, Message: message}
}

// deletePod plans the deletion of a pod.
func (d *decision) deletePod(pod *corev1.Pod, because string) {
	d.deletes = append(d.deletes, plan.Delete{
		Object:  object.RefOf(pod),
		Because: because,
		Done:    d.event(corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name),
		Failed:  d.event(corev1.EventTypeWarning, "FailedDelete", "Error deleting: "+plan.TellError),
	})
}

// createPod plans a pod for a node, at the revision that the node shall run.
func (d *decision) createPod(s *spot, failures int, because string) {
	if d.ending {
		return
	}
	template, hash := &d.set.Spec.Template, d.hash
	if s.held && d.heldAt != d.history.Present {
		old, err := revision.Template(d.heldAt)
		if err != nil {
			d.refuse("InvalidRevision", err)
			return
		}
		template, hash = old, hashOf(d.heldAt)
	}
	d.creates = append(d.creates, plan.Create{
		Object:  newPod(d.set, template, hash, s.node.Name, failures),
		Because: because,
		Done:    d.event(corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+plan.TellName),
		Failed:  d.event(corev1.EventTypeWarning, "FailedCreate", "Error creating: "+plan.TellError),
	})
}
