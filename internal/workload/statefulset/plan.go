package statefulset

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/revision"
	"coracle/internal/workload/routed"
)

// member is one identity of the set: an ordinal, and its pod if there is one.
type member struct {
	ordinal int
	pod     *corev1.Pod
}

// decision is the making of one plan.
type decision struct {
	in  plan.Input
	set *appsv1.StatefulSet
	led *routed.Book
	out plan.Plan

	history         revision.History
	current, update *appsv1.ControllerRevision

	ordinals []int // wanted, ascending
	// pods are all members that exist, in no particular order.
	pods []member
	// replicas has one entry per wanted ordinal, ascending; pod is nil where there is none.
	replicas []member
	// condemned are the members of unwanted ordinals, highest first.
	condemned []member

	ordered                bool // podManagementPolicy OrderedReady
	ending                 bool // the namespace is terminating
	blocked                bool // what follows in order must wait
	waits                  []plan.Wait
	explained, unexplained int // pods that are waited for, told one by one and not

	faults  []string        // what is wrong with the annotations
	stuck   bool            // something that is waited for needs the user
	touched map[string]bool // claims already written in this plan
	doomed  map[string]bool // pods already deleted in this plan
}

// Plan decides the next step for one StatefulSet. It is pure. A set that does not exist needs
// nothing: its dependents are the garbage collector's.
func Plan(in plan.Input) plan.Plan {
	obj, ok := in.Reader.Get(resource.StatefulSets, in.Key.Namespace, in.Key.Name)
	set, _ := obj.(*appsv1.StatefulSet)
	if !ok || set == nil {
		return plan.Plan{}
	}
	d := &decision{in: in, set: set, led: routed.New(in.Reader, in.Now)}
	d.run()
	if d.unexplained > 0 {
		d.wait(plan.Wait{Reason: "MorePods", Message: fmt.Sprintf("%d more pods are not available", d.unexplained), On: object.RefOf(set)})
	}
	diagnose.Conclude(&d.out, in, object.RefOf(set), d.waits, nil, d.stuck)
	return d.out
}

func (d *decision) run() {
	selector, err := Selector(d.set)
	if err == nil && selector.Empty() {
		err = fmt.Errorf("spec.selector is empty: it would select every pod; give it labels that are only this set's")
	}
	if err != nil {
		d.refuse("InvalidSpec", err)
		return
	}
	if d.ordinals, err = Ordinals(d.set); err != nil {
		d.fault(err)
		d.faultStatus()
		return
	}
	alive := d.set.DeletionTimestamp == nil
	if !d.readHistory(selector) {
		return
	}
	if !d.gather(selector) {
		return
	}
	d.sort()
	if alive {
		d.ordered = d.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
		d.cure()
		d.fill()
		d.shrink()
		d.roll()
		barred := d.growClaims()
		d.forget()
		d.status(barred)
		return
	}
	d.status(nil)
}

// readHistory finds the revisions, and returns false when the history must be brought up to date
// before anything else.
func (d *decision) readHistory(selector labels.Selector) bool {
	present := ""
	if d.set.Status.ObservedGeneration == d.set.Generation && d.set.Generation > 0 {
		present = d.set.Status.UpdateRevision
	}
	var err error
	d.history, err = revision.Read(d.in.Reader, revision.Owner{
		Object: d.set, Selector: selector, Template: &d.set.Spec.Template,
		Collisions: d.set.Status.CollisionCount, Now: d.in.Now, Label: revision.HashLabel,
	}, present)
	if err != nil {
		d.refuse("InvalidTemplate", err)
		return false
	}
	if len(d.history.Actions) > 0 {
		if w, until, held := d.history.JustFreed(d.in, controllerName, d.set, d.set.Status.ObservedGeneration == d.set.Generation); held {
			d.wait(w)
			d.again(until)
			return false
		}
		d.out.Actions = d.history.Actions
		if c := d.history.Collisions; c != nil {
			next := d.set.DeepCopy()
			next.Status.CollisionCount = c
			d.out.Status = next
		}
		return false
	}
	d.update = d.history.Present
	d.current = d.history.Named(d.set.Status.CurrentRevision)
	if d.current == nil {
		d.current = d.update
	}
	return d.update != nil // nil only while the set is being deleted and its history is gone
}

// gather lists the members; it returns false when pods must first be adopted or released.
func (d *decision) gather(selector labels.Selector) bool {
	bearsName := func(o object.Object) bool {
		_, named := ordinalOf(d.set, o.GetName())
		return named
	}
	mine, edits := claim.Objects(d.in.Reader, resource.Pods, claim.Owner{Object: d.set, Selector: selector}, bearsName)
	d.out.Actions = append(d.out.Actions, edits...)
	d.pods = make([]member, 0, len(mine))
	for _, obj := range mine {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			continue
		}
		if ordinal, named := ordinalOf(d.set, pod.Name); named {
			d.pods = append(d.pods, member{ordinal, pod})
		}
	}
	return len(d.out.Actions) == 0
}

// sort files the members under wanted and condemned ordinals.
func (d *decision) sort() {
	d.replicas = make([]member, len(d.ordinals))
	for i, n := range d.ordinals {
		d.replicas[i].ordinal = n
	}
	for _, m := range d.pods {
		if i, wanted := slices.BinarySearch(d.ordinals, m.ordinal); wanted {
			d.replicas[i].pod = m.pod
		} else {
			d.condemned = append(d.condemned, m)
		}
	}
	slices.SortFunc(d.condemned, func(a, b member) int { return b.ordinal - a.ordinal })
}

// do plans an action.
func (d *decision) do(a plan.Action) { d.out.Actions = append(d.out.Actions, a) }

// wait notes what is waited for.
func (d *decision) wait(w plan.Wait) { d.waits = append(d.waits, w) }

// again asks for another look no later than at.
func (d *decision) again(at time.Time) {
	if d.out.Again.IsZero() || at.Before(d.out.Again) {
		d.out.Again = at
	}
}

func (d *decision) touch(claim string) {
	if d.touched == nil {
		d.touched = make(map[string]bool)
	}
	d.touched[claim] = true
}

// refuse ends the decision: nothing can be done until the user changes the set.
func (d *decision) refuse(reason string, err error) {
	d.stuck = true
	d.wait(plan.Wait{Reason: reason, Message: err.Error(), On: object.RefOf(d.set), Hint: "correct the StatefulSet"})
	d.out.Events = append(d.out.Events, plan.Event{Regarding: object.RefOf(d.set), Type: corev1.EventTypeWarning, Reason: reason, Message: err.Error()})
}

// fault notes an annotation that cannot be obeyed.
func (d *decision) fault(err error) {
	d.stuck = true
	d.faults = append(d.faults, err.Error())
	d.wait(plan.Wait{Reason: "InvalidAnnotation", Message: err.Error(), On: object.RefOf(d.set), Hint: "correct or remove the annotation"})
}

func (d *decision) told(reason, message string) *plan.Event {
	return &plan.Event{Regarding: object.RefOf(d.set), Type: corev1.EventTypeNormal, Reason: reason, Message: message}
}

func (d *decision) refused(reason, message string) *plan.Event {
	return &plan.Event{Regarding: object.RefOf(d.set), Type: corev1.EventTypeWarning, Reason: reason, Message: message}
}

// deletePod plans the deletion of a member's pod, once.
func (d *decision) deletePod(m member, because string) {
	if d.doomed[m.pod.Name] {
		return
	}
	if d.doomed == nil {
		d.doomed = make(map[string]bool)
	}
	d.doomed[m.pod.Name] = true
	d.do(plan.Delete{
		Object:  object.RefOf(m.pod),
		Because: because,
		Done:    d.told("SuccessfulDelete", fmt.Sprintf("delete Pod %s in StatefulSet %s successful", m.pod.Name, d.set.Name)),
		Failed:  d.refused("FailedDelete", fmt.Sprintf("delete Pod %s in StatefulSet %s failed error: %s", m.pod.Name, d.set.Name, plan.TellError)),
	})
}

// leavingPod says whether a member's pod is on its way out, or will be by this plan.
func (d *decision) leavingPod(m member) bool { return terminating(m.pod) || d.doomed[m.pod.Name] }
