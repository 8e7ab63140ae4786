package invariant

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// daemonPast is what has been true of a DaemonSet, and of the nodes for it, since its controller last knew all.
type daemonPast struct {
	versions []*appsv1.DaemonSet
	// nodes holds the versions of each node; nil among them says that it was not there.
	nodes map[string][]*corev1.Node
	stood map[string]standing
	due   dues[string]
	// crowded nodes have had more than one pod.
	crowded map[string]bool
}

func newDaemonPast(r object.Reader, o object.Object, now time.Time) *daemonPast {
	d, _ := readDaemons(r, object.KeyOf(o), now)
	p := &daemonPast{versions: []*appsv1.DaemonSet{d.DaemonSet}, nodes: map[string][]*corev1.Node{}, stood: map[string]standing{}, due: dues[string]{}, crowded: map[string]bool{}}
	for name, node := range d.nodes {
		p.nodes[name] = []*corev1.Node{node}
		p.stood[name] = down
		for _, pod := range d.pods[name] {
			p.due.note(name, pod, d.Spec.MinReadySeconds)
			if d.serves(pod) {
				p.stood[name] = up
			}
		}
		p.crowded[name] = len(d.pods[name]) > 1
		if d.lost(name) {
			p.stood[name] = mixed // takes up no room if it was not ready before the rollout began
		}
	}
	return p
}

func (w *Writes) daemonSetWritten(e Write) {
	p := w.daemons[e.After.GetUID()]
	switch {
	case e.Gone:
		delete(w.daemons, e.After.GetUID())
	case p != nil:
		p.versions = append(p.versions, e.After.(*appsv1.DaemonSet))
	}
}

func (w *Writes) nodeWritten(e Write) {
	node := e.After.(*corev1.Node)
	if e.Gone {
		node = nil
	}
	for _, p := range w.daemons {
		if e.Before == nil {
			p.nodes[e.After.GetName()] = append(p.nodes[e.After.GetName()], nil)
		}
		p.nodes[e.After.GetName()] = append(p.nodes[e.After.GetName()], node)
	}
}

// wants says for one version of a set and of a node whether the node shall have a pod.
func wants(set *appsv1.DaemonSet, node *corev1.Node) bool {
	if node == nil {
		return false
	}
	d := daemons{DaemonSet: set, nodes: map[string]*corev1.Node{node.Name: node}}
	wanted, _ := d.wants(node.Name)
	return wanted
}

func (p *daemonPast) ever(node string) bool {
	return some(p.versions, func(d *appsv1.DaemonSet) bool {
		return some(p.nodes[node], func(n *corev1.Node) bool { return wants(d, n) })
	})
}

func (p *daemonPast) always(node string) bool {
	return len(p.nodes[node]) > 0 && every(p.versions, func(d *appsv1.DaemonSet) bool {
		return every(p.nodes[node], func(n *corev1.Node) bool { return wants(d, n) })
	})
}

func (p *daemonPast) minReady() int32 { return p.versions[len(p.versions)-1].Spec.MinReadySeconds }

// daemonWritten judges what a DaemonSet's controller does to its pods.
func (w *Writes) daemonWritten(r object.Reader, e Write, now time.Time) error {
	p := w.daemons[ownerOf(e)]
	if p == nil {
		return nil
	}
	byController, node := e.By == "daemonset-controller", target(e.After.(*corev1.Pod))
	others := p.others(r, e.After.(*corev1.Pod), node)
	serves := false
	for _, pod := range others {
		serves = serves || servesNow(pod, p.minReady(), now)
	}
	p.age(now)
	p.crowded[node] = p.crowded[node] || len(others) > 0
	broken := error(nil)
	switch {
	case byController && e.Before == nil:
		broken = p.created(e.After.(*corev1.Pod), node, others)
	case byController && e.begins():
		broken = p.deleted(e.Before.(*corev1.Pod), node)
	}
	if !e.Gone {
		p.due.note(node, e.After, p.minReady())
	}
	before := serves || e.Before != nil && servesNow(e.Before, p.minReady(), now)
	p.stood[node] = p.stood[node].next(before, serves || !e.Gone && servesNow(e.After, p.minReady(), now), byController)
	return broken
}

// others are the set's pods on a node besides one that have not ended.
func (p *daemonPast) others(r object.Reader, but *corev1.Pod, node string) (out []*corev1.Pod) {
	for _, o := range r.Indexed(resource.Pods, object.ByController, string(p.versions[0].UID)) {
		if pod := o.(*corev1.Pod); pod.UID != but.UID && target(pod) == node && !podstate.Ended(pod) {
			out = append(out, pod)
		}
	}
	return out
}

// age notes which nodes have begun to be served since, by the passing of time alone.
func (p *daemonPast) age(now time.Time) {
	for n, s := range p.stood {
		if s == down && p.due.passed(n, now) {
			p.stood[n] = mixed
		}
	}
}

func surges(d *appsv1.DaemonSet) bool {
	ru := d.Spec.UpdateStrategy.RollingUpdate
	return d.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType && ru != nil && ru.MaxSurge != nil &&
		ru.MaxSurge.String() != "0" && ru.MaxSurge.String() != "0%"
}

// created: a daemon is put only where one belongs, and beside another only by surge.
func (p *daemonPast) created(pod *corev1.Pod, node string, others []*corev1.Pod) error {
	if !p.ever(node) {
		return fmt.Errorf("one daemon: %s is put on node %q, which shall have none", pod.Name, node)
	}
	surge, active := some(p.versions, surges), 0
	for _, other := range others {
		if other.DeletionTimestamp == nil {
			active++
		}
	}
	if !surge && len(others) > 0 || active > 1 {
		return fmt.Errorf("one daemon: %s is put on node %s beside %d others", pod.Name, node, len(others))
	}
	return nil
}

// deleted: a daemon that serves alone on a node that shall have one goes only by a rolling update that is neither paused
// nor kept from the node, and within maxUnavailable; by surge never.
func (p *daemonPast) deleted(pod *corev1.Pod, node string) error {
	if !p.always(node) || p.stood[node] != up || p.crowded[node] || podstate.Ended(pod) {
		return nil
	}
	if every(p.versions, func(d *appsv1.DaemonSet) bool { return p.holds(d, node) }) {
		return fmt.Errorf("held nodes: %s serves on node %s, which is held, and is deleted", pod.Name, node)
	}
	if every(p.versions, surges) {
		return fmt.Errorf("daemons serving: %s serves on node %s and is deleted before it has a successor", pod.Name, node)
	}
	if some(p.versions, surges) {
		return nil
	}
	out := 0
	for other, s := range p.stood {
		if p.always(other) && (s == down || s == taken) {
			out++
		}
	}
	if most := highest(p.versions, p.maxUnavailable); out+1 > most {
		return fmt.Errorf("daemons serving: %s serves on node %s and is deleted while %d nodes are out, at most %d may be", pod.Name, node, out, most)
	}
	return nil
}

// holds says whether no version of a node lets the rolling update reach it.
func (p *daemonPast) holds(d *appsv1.DaemonSet, node string) bool {
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType || d.Annotations["coracle.io/paused"] == "true" {
		return true
	}
	text, asked := d.Annotations["coracle.io/canary-selector"]
	selector, err := labels.Parse(text)
	return asked && err == nil && every(p.nodes[node], func(n *corev1.Node) bool { return n == nil || !selector.Matches(labels.Set(n.Labels)) })
}

// maxUnavailable is the most that a version allows, whichever nodes it counts.
func (p *daemonPast) maxUnavailable(set *appsv1.DaemonSet) int {
	d := daemons{DaemonSet: set, nodes: map[string]*corev1.Node{}}
	for name, nodes := range p.nodes {
		for _, n := range nodes {
			if n != nil && wants(set, n) {
				d.nodes[name] = n
			}
		}
	}
	_, most := d.limits()
	return most
}
