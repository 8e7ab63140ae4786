package invariant

import (
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// DaemonSetPlan holds when a plan for a DaemonSet keeps every promise that a single plan can break:
// OneDaemon, DaemonsServing and HeldNodes.
func DaemonSetPlan(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	var errs []error
	for _, c := range []PlanCheck{OneDaemon, DaemonsServing, HeldNodes} {
		errs = append(errs, c(r, key, p, now))
	}
	return errors.Join(errs...)
}

// daemons is a DaemonSet as the checks see it.
type daemons struct {
	*appsv1.DaemonSet
	now   time.Time
	hash  string // of the newest revision
	since time.Time
	nodes map[string]*corev1.Node
	// pods by node; what has ended and is being deleted is in nobody's way.
	pods map[string][]*corev1.Pod
}

func readDaemons(r object.Reader, key object.Key, now time.Time) (*daemons, bool) {
	o, ok := r.Get(resource.DaemonSets, key.Namespace, key.Name)
	if !ok {
		return nil, false
	}
	d := &daemons{DaemonSet: o.(*appsv1.DaemonSet), now: now, nodes: map[string]*corev1.Node{}, pods: map[string][]*corev1.Pod{}}
	for _, o := range r.List(resource.Nodes, "") {
		d.nodes[o.GetName()] = o.(*corev1.Node)
	}
	for _, o := range r.Indexed(resource.Pods, object.ByController, string(d.UID)) {
		if pod := o.(*corev1.Pod); !podstate.Ended(pod) || pod.DeletionTimestamp == nil {
			d.pods[target(pod)] = append(d.pods[target(pod)], pod)
		}
	}
	newest := int64(-1)
	for _, o := range r.Indexed(resource.ControllerRevisions, object.ByController, string(d.UID)) {
		if rev := o.(*appsv1.ControllerRevision); rev.Revision > newest {
			newest, d.hash, d.since = rev.Revision, rev.Labels[appsv1.DefaultDaemonSetUniqueLabelKey], rev.CreationTimestamp.Time
			if t, err := time.Parse(time.RFC3339, rev.Annotations["coracle.io/present-since"]); err == nil {
				d.since = t
			}
		}
	}
	return d, true
}

// target is the node a daemon pod is bound or pinned to.
func target(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" || pod.Spec.Affinity == nil {
		return pod.Spec.NodeName
	}
	terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	return terms[0].MatchFields[0].Values[0]
}

// wants says whether a node shall have a pod, and whether one that is there may stay, by the rules
// of the API: selector and affinity, and taints against the template's tolerations and those
// every daemon gets.
func (d *daemons) wants(name string) (wanted, stays bool) {
	node, ok := d.nodes[name]
	if !ok {
		return false, false
	}
	spec := d.Spec.Template.Spec
	if fits, err := nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity).Match(node); err != nil || !fits {
		return false, false
	}
	builtin := map[string]corev1.TaintEffect{
		"node.kubernetes.io/not-ready": corev1.TaintEffectNoExecute, "node.kubernetes.io/unreachable": corev1.TaintEffectNoExecute,
		"node.kubernetes.io/disk-pressure": corev1.TaintEffectNoSchedule, "node.kubernetes.io/memory-pressure": corev1.TaintEffectNoSchedule,
		"node.kubernetes.io/pid-pressure": corev1.TaintEffectNoSchedule, "node.kubernetes.io/unschedulable": corev1.TaintEffectNoSchedule,
	}
	wanted, stays = true, true
	for _, taint := range node.Spec.Taints {
		tolerated := taint.Effect == corev1.TaintEffectPreferNoSchedule || builtin[taint.Key] == taint.Effect
		for _, t := range spec.Tolerations {
			key := t.Key == "" || t.Key == taint.Key
			effect := t.Effect == "" || t.Effect == taint.Effect
			value := t.Operator == corev1.TolerationOpExists || t.Value == taint.Value
			tolerated = tolerated || key && effect && value
		}
		if !tolerated {
			wanted, stays = false, stays && taint.Effect != corev1.TaintEffectNoExecute
		}
	}
	return wanted, stays
}

func (d *daemons) serves(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && podstate.Available(pod, d.Spec.MinReadySeconds, d.now)
}

func (d *daemons) fresh(pod *corev1.Pod) bool {
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == d.hash
}

// limits returns maxSurge and maxUnavailable as numbers of nodes.
func (d *daemons) limits() (surge, unavailable int) {
	unavailable = 1
	desired := 0
	for name := range d.nodes {
		if wanted, _ := d.wants(name); wanted {
			desired++
		}
	}
	ru := d.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		return 0, unavailable
	}
	scale := func(v *intstr.IntOrString, otherwise int) int {
		if v == nil {
			return otherwise
		}
		n, _ := intstr.GetScaledValueFromIntOrPercent(v, desired, true)
		return n
	}
	surge, unavailable = scale(ru.MaxSurge, 0), scale(ru.MaxUnavailable, 1)
	if surge == 0 {
		unavailable = max(unavailable, 1)
	}
	return surge, unavailable
}

// after returns the pods that are neither terminating nor deleted by the plan, those it creates
// included, by node.
func (d *daemons) after(p plan.Plan) (kept map[string][]*corev1.Pod, created []*corev1.Pod, deleted map[string]bool) {
	kept, deleted = map[string][]*corev1.Pod{}, map[string]bool{}
	for _, a := range p.Actions {
		switch a := a.(type) {
		case plan.Create:
			if pod, ok := a.Object.(*corev1.Pod); ok {
				created = append(created, pod)
				kept[target(pod)] = append(kept[target(pod)], pod)
			}
		case plan.Delete:
			if a.Object.Resource == resource.Pods {
				deleted[a.Object.Name] = true
			}
		}
	}
	for node, pods := range d.pods {
		for _, pod := range pods {
			if pod.DeletionTimestamp == nil && !deleted[pod.Name] {
				kept[node] = append(kept[node], pod)
			}
		}
	}
	return kept, created, deleted
}

// OneDaemon holds when a plan creates pods only on nodes that shall have one, pinned there, and none
// beside another: two of different revisions only by surge.
func OneDaemon(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	d, ok := readDaemons(r, key, now)
	if !ok {
		return nil
	}
	surge, _ := d.limits()
	kept, created, deleted := d.after(p)
	surging := 0
	for _, pod := range created {
		name := target(pod)
		if wanted, _ := d.wants(name); !wanted {
			return fmt.Errorf("one daemon: a pod is created for node %q, which shall have none", name)
		}
		most := 1
		if surge > 0 {
			most = 2
		}
		if len(kept[name]) > most {
			return fmt.Errorf("one daemon: node %s gets a pod beside %d others", name, len(kept[name])-1)
		}
		for _, other := range d.pods[name] {
			switch {
			case surge == 0 && !deleted[other.Name]:
				return fmt.Errorf("one daemon: node %s gets a pod while %s is there", name, other.Name)
			case surge == 0 && !podstate.Ended(other):
				return fmt.Errorf("one daemon: node %s gets a pod while %s still runs", name, other.Name)
			case other.DeletionTimestamp == nil && !deleted[other.Name] && d.fresh(other) == d.fresh(pod):
				return fmt.Errorf("one daemon: node %s gets a second pod of one revision", name)
			}
		}
	}
	for _, pods := range kept {
		if len(pods) > 1 && (d.serves(pods[0]) && !d.fresh(pods[0]) || d.serves(pods[1]) && !d.fresh(pods[1])) {
			surging++
		}
	}
	if len(created) > 0 && surge > 0 && surging > surge && d.surgingBefore() <= surge {
		return fmt.Errorf("one daemon: %d nodes surge, at most %d may", surging, surge)
	}
	return nil
}

// surgingBefore counts the nodes that have two pods already, of which the old one serves.
func (d *daemons) surgingBefore() int {
	n := 0
	for _, pods := range d.pods {
		active, serving := 0, false
		for _, pod := range pods {
			if pod.DeletionTimestamp == nil {
				active++
				serving = serving || !d.fresh(pod) && d.serves(pod)
			}
		}
		if active > 1 && serving {
			n++
		}
	}
	return n
}

// DaemonsServing holds when a plan does not by its own hand take serving pods from wanted nodes
// beyond maxUnavailable; nodes that were not ready before the rollout began do not count. By surge an
// old pod that serves goes only when its successor serves.
func DaemonsServing(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	d, ok := readDaemons(r, key, now)
	if !ok {
		return nil
	}
	surge, unavailable := d.limits()
	kept, _, deleted := d.after(p)
	taken, down := 0, 0
	for name := range d.nodes {
		if wanted, _ := d.wants(name); !wanted {
			continue
		}
		served, serves := false, false
		for _, pod := range d.pods[name] {
			served = served || d.serves(pod)
			if d.serves(pod) && deleted[pod.Name] && len(d.pods[name]) == 1 && d.fresh(pod) {
				return fmt.Errorf("daemons serving: %s on node %s is up to date, alone, and deleted", pod.Name, name)
			}
		}
		for _, pod := range kept[name] {
			serves = serves || pod.UID != "" && d.serves(pod)
		}
		switch {
		case served && !serves:
			taken++
		case !served && !d.lost(name):
			down++
		}
	}
	if surge > 0 && taken > 0 {
		// Surplus of one revision is pruned to the oldest, which may be the one that does not serve:
		// only pods of an old revision are bound by this promise.
		for name, pods := range d.pods {
			for _, pod := range pods {
				if wanted, _ := d.wants(name); wanted && deleted[pod.Name] && d.serves(pod) && len(pods) <= 2 && !anyServes(d, kept[name]) && !sameRevision(pods) {
					return fmt.Errorf("daemons serving: %s on node %s is deleted before its successor serves", pod.Name, name)
				}
			}
		}
		return nil
	}
	if taken > 0 && taken+down > unavailable && !d.surplus() {
		return fmt.Errorf("daemons serving: %d serving nodes are taken down while %d are, at most %d may be", taken, down, unavailable)
	}
	return d.readyKept(kept, unavailable)
}

// readyKept holds when ready pods, which serve before they are available, go within maxUnavailable too.
func (d *daemons) readyKept(kept map[string][]*corev1.Pod, unavailable int) error {
	taken, down := 0, 0
	for name := range d.nodes {
		if wanted, _ := d.wants(name); !wanted {
			continue
		}
		switch {
		case !slices.ContainsFunc(d.pods[name], isReady):
			if !d.lost(name) {
				down++
			}
		case !slices.ContainsFunc(kept[name], isReady):
			taken++
		}
	}
	if taken > 0 && taken+down > unavailable && !d.surplus() {
		return fmt.Errorf("daemons serving: %d nodes lose their ready pod while %d have none, at most %d may", taken, down, unavailable)
	}
	return nil
}

func anyServes(d *daemons, pods []*corev1.Pod) bool {
	for _, pod := range pods {
		if pod.UID != "" && d.serves(pod) {
			return true
		}
	}
	return false
}

func sameRevision(pods []*corev1.Pod) bool {
	for _, pod := range pods {
		if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != pods[0].Labels[appsv1.DefaultDaemonSetUniqueLabelKey] {
			return false
		}
	}
	return true
}

// surplus says whether some node has more pods than it shall have, which are pruned whether they
// serve or not.
func (d *daemons) surplus() bool {
	for _, pods := range d.pods {
		active := 0
		for _, pod := range pods {
			if pod.DeletionTimestamp == nil {
				active++
			}
		}
		if active > 1 {
			return true
		}
	}
	return false
}

// lost says whether a node was not ready before the rollout began.
func (d *daemons) lost(name string) bool {
	for _, c := range d.nodes[name].Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status != corev1.ConditionTrue && c.LastTransitionTime.Time.Before(d.since)
		}
	}
	return true
}

// HeldNodes holds when the annotations coracle.io/paused, coracle.io/canary-selector and coracle.io/partition are obeyed: a
// single serving pod of a held node that is wanted stays, alone.
func HeldNodes(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	d, ok := readDaemons(r, key, now)
	if !ok {
		return nil
	}
	paused := d.Annotations["coracle.io/paused"] == "true"
	selector, err := labels.Parse(d.Annotations["coracle.io/canary-selector"])
	if err != nil {
		paused = true
	}
	kept, _, deleted := d.after(p)
	for name, pods := range d.pods {
		wanted, _ := d.wants(name)
		if !wanted || len(pods) != 1 || !d.serves(pods[0]) || !deleted[pods[0].Name] && len(kept[name]) < 2 {
			continue
		}
		if paused || !selector.Matches(labels.Set(d.nodes[name].Labels)) {
			return fmt.Errorf("held nodes: %s on node %s serves and is replaced", pods[0].Name, name)
		}
	}
	return d.partitioned(p, selector)
}

// partitioned holds when a plan that takes a serving old pod, or puts its successor beside it, leaves as many wanted nodes
// without the newest revision as coracle.io/partition says, those that the canary selector keeps among them.
func (d *daemons) partitioned(p plan.Plan, canary labels.Selector) error {
	text, asked := d.Annotations["coracle.io/partition"]
	if !asked {
		return nil
	}
	kept, _, deleted := d.after(p)
	left, wantedNodes, touched := 0, 0, ""
	for name, node := range d.nodes {
		if wanted, _ := d.wants(name); !wanted {
			continue
		}
		wantedNodes++
		newest, old := false, false
		for _, pod := range kept[name] {
			newest = newest || d.fresh(pod)
		}
		for _, pod := range d.pods[name] {
			old = old || d.serves(pod) && !d.fresh(pod) && (deleted[pod.Name] || newest && !anyFresh(d, d.pods[name]))
		}
		if old && len(d.pods[name]) == 1 {
			touched = name
		} else if !newest || !canary.Matches(labels.Set(node.Labels)) {
			left++
		}
	}
	value := intstr.Parse(text)
	stay, err := intstr.GetScaledValueFromIntOrPercent(&value, wantedNodes, true)
	if err == nil && touched != "" && left < stay {
		return fmt.Errorf("held nodes: node %s is updated, which leaves %d at an old revision; the partition is %s", touched, left, text)
	}
	return nil
}

func anyFresh(d *daemons, pods []*corev1.Pod) bool {
	for _, pod := range pods {
		if d.fresh(pod) {
			return true
		}
	}
	return false
}

// DaemonSetsExact holds when every DaemonSet has one serving pod of its present template on each
// node that shall have one (held nodes may keep an old one), none where none may stay, and a status
// that tells the truth.
func DaemonSetsExact(r object.Reader, now time.Time) error {
	for _, o := range r.List(resource.DaemonSets, "") {
		d, _ := readDaemons(r, object.KeyOf(o), now)
		var is appsv1.DaemonSetStatus
		holds := d.Annotations["coracle.io/paused"] == "true" || d.Annotations["coracle.io/canary-selector"] != "" || d.Annotations["coracle.io/partition"] != ""
		holds = holds || d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType
		for name := range d.nodes {
			wanted, stays := d.wants(name)
			pods := d.pods[name]
			switch {
			case !stays && len(pods) > 0:
				return fmt.Errorf("exact: daemonset %s has %d pods on node %s, which shall have none", object.KeyOf(d), len(pods), name)
			case !wanted && len(pods) > 0:
				is.NumberMisscheduled++
			case wanted && (len(pods) != 1 || !d.serves(pods[0])):
				return fmt.Errorf("exact: daemonset %s has not one serving pod on node %s, but %d", object.KeyOf(d), name, len(pods))
			case wanted:
				is.DesiredNumberScheduled++
				if d.fresh(pods[0]) {
					is.UpdatedNumberScheduled++
				} else if !holds {
					return fmt.Errorf("exact: daemonset %s has an outdated pod on node %s", object.KeyOf(d), name)
				}
			}
		}
		for name := range d.pods {
			if _, exists := d.nodes[name]; !exists {
				return fmt.Errorf("exact: daemonset %s has pods on node %q, which does not exist", object.KeyOf(d), name)
			}
		}
		is.CurrentNumberScheduled, is.NumberReady, is.NumberAvailable = is.DesiredNumberScheduled, is.DesiredNumberScheduled, is.DesiredNumberScheduled
		told := d.Status
		is.ObservedGeneration, is.CollisionCount, is.Conditions = d.Generation, told.CollisionCount, told.Conditions
		if fmt.Sprint(is) != fmt.Sprint(told) {
			return fmt.Errorf("status: daemonset %s is %+v, its status says %+v", object.KeyOf(d), is, told)
		}
		if err := historyExact(r, d, &d.Spec.Template, ""); err != nil {
			return err
		}
	}
	return nil
}
