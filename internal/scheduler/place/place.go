// Package place decides where a pod goes: which nodes can take it, which of those is best, and,
// when none can, why not, counted by cause.
//
// It owns the scheduler's snapshot of the nodes: what is used on each, as sums kept up to date pod
// by pod; what each class of like pods was told by each node (class.go), so that a placement asks
// only the nodes that changed since the last one of its class; and how many pods match each
// affinity or spread term in each domain (topology.go), so that a decision never counts pods. It
// is pure: it refuses clocks, randomness, I/O and goroutines. Queueing and binding are package
// scheduler's.
package place

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
)

// Decision is where a pod goes, or why it goes nowhere.
type Decision struct {
	// Node is the node chosen; empty when there is none.
	Node string
	// Select are unbound claims (WaitForFirstConsumer) that must first be told the node, so that
	// their volumes are made there.
	Select []*corev1.PersistentVolumeClaim
	// Bind are existing volumes chosen for unbound claims on the node.
	Bind []VolumeBinding
	// Nodes is how many nodes there are.
	Nodes int
	// Refused counts nodes by the reason they refused, in the words users see.
	Refused map[Reason]int
	// Causes is what must change for the pod to fit.
	Causes Cause
	// Blocked is a reason that holds whatever the node, such as a missing claim.
	Blocked string
}

// VolumeBinding is a volume chosen for a claim.
type VolumeBinding struct {
	Claim  *corev1.PersistentVolumeClaim
	Volume *corev1.PersistentVolume
}

// Cause is a set of the sorts of things that keep a pod from its place.
type Cause uint16

// The causes. A change in the cluster wakes the pods that wait for its sort.
const (
	// CauseNode: a node's labels, taints, or schedulability.
	CauseNode Cause = 1 << iota
	// CauseResources: room or ports on a node, freed by another pod's end or a node's growth.
	CauseResources
	// CauseVolume: claims, volumes and classes.
	CauseVolume
	// CausePods: other pods' labels and places (affinity, spread).
	CausePods
	// CauseGates: the pod's own scheduling gates.
	CauseGates
)

// Message is what the PodScheduled condition and the FailedScheduling event say.
func (d Decision) Message() string {
	if d.Blocked != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, d.Blocked)
	}
	if d.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	parts := make([]string, 0, len(d.Refused))
	for reason, n := range d.Refused {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, strings.Join(parts, ", "))
}

// Place decides for one pod. prefer is a node to choose if it can take the pod (the one that
// was nominated or is being prepared for it), or "".
func (s *State) Place(p *Pod, r object.Reader, prefer string) Decision {
	d := Decision{Nodes: len(s.list())}
	if d.Nodes == 0 {
		d.Causes = CauseNode
		return d
	}
	if len(p.Object.Spec.SchedulingGates) > 0 {
		d.Blocked, d.Causes = "Scheduling is blocked due to non-empty scheduling gates", CauseGates
		return d
	}
	claimless := !p.hasClaims()
	if claimless && p.refusedAt == s.version {
		// One that is alike was refused, and nothing has changed since.
		return *p.refused
	}
	claims, blocked := claimsOf(p.Object, r)
	if blocked != "" {
		d.Blocked, d.Causes = blocked, CauseVolume
		return d
	}
	q := s.question(p, claims)
	best := q.pick(prefer)
	if best == nil {
		d.Refused, d.Causes = q.refused, q.causes
		if claimless {
			kept := d
			p.refused, p.refusedAt = &kept, s.version
		}
		return d
	}
	d.Node = best.Name
	d.Bind, d.Select = claims.on(best.Object)
	return d
}

// question is one pod's search for a node.
type question struct {
	state *State
	pod   *Pod
	// class is nil for a pod that names its one node.
	class    *class
	claims   claimSet
	topology topology
	refused  map[Reason]int
	causes   Cause
}

// question gathers what a pod's placement depends on.
func (s *State) question(p *Pod, claims claimSet) *question {
	q := &question{state: s, pod: p, claims: claims}
	r := s.relate(p)
	if p.pinned == "" {
		q.class = s.class(p, r)
	}
	q.topology = s.topologyOf(p, r, q.class)
	return q
}

func (q *question) refuse(reason Reason, cause Cause, nodes int) {
	if q.refused == nil {
		q.refused = map[Reason]int{}
	}
	q.refused[reason] += nodes
	q.causes |= cause
}

// pick returns the best node, or nil with every refusal counted.
func (q *question) pick(prefer string) *Node {
	if q.pod.pinned != "" {
		return q.pickPinned()
	}
	if n := q.state.nodes[prefer]; n != nil {
		if v := q.class.at(n); v != nil && v.reason == "" {
			if reason, _ := q.dynamic(n); reason == "" {
				return n
			}
		}
	}
	if best := q.search(); best != nil {
		return best
	}
	q.count()
	return nil
}

// pickPinned asks the one node that a daemon pod names; no other need be asked.
func (q *question) pickPinned() *Node {
	others := len(q.state.list())
	n := q.state.nodes[q.pod.pinned]
	if n != nil && n.Object != nil {
		others--
		reason, cause := static(q.pod, n)
		if reason == "" {
			reason, cause = q.dynamic(n)
		}
		if reason == "" {
			return n
		}
		q.refuse(reason, cause, 1)
	}
	if others > 0 {
		q.refuse(NodeAffinity, CauseNode, others)
	}
	return nil
}

// search asks one node of each group for all of it; where claims matter, every node that the
// class does not rule out.
func (q *question) search() *Node {
	candidates := make([]*verdict, 0, len(q.class.groups))
	q.each(func(v *verdict, _ int, reason Reason, _ Cause) {
		if reason == "" {
			candidates = append(candidates, v)
		}
	})
	prefer := q.topology.preference(candidates)
	var best *Node
	var bestScore int64
	for i, v := range candidates {
		score := v.score
		if prefer != nil {
			score += prefer[i]
		}
		if best == nil || score > bestScore || score == bestScore && v.node.Name < best.Name {
			best, bestScore = v.node, score
		}
	}
	return best
}

// count counts every refusal.
func (q *question) count() {
	q.refused, q.causes = maps.Clone(q.class.refused), q.class.causes
	q.each(func(_ *verdict, nodes int, reason Reason, cause Cause) {
		if reason != "" {
			q.refuse(reason, cause, nodes)
		}
	})
}

// each tells for how many nodes a node answers, and its answer.
func (q *question) each(tell func(v *verdict, nodes int, reason Reason, cause Cause)) {
	byGroup := q.claims.free()
	for _, g := range q.class.groups {
		if byGroup {
			reason, cause := q.topology.refuse(g.First().node)
			tell(g.First(), g.Len(), reason, cause)
			continue
		}
		for _, v := range g.All() {
			reason, cause := q.dynamic(v.node)
			tell(v, 1, reason, cause)
		}
	}
}

// dynamic asks what depends on more than the pod's class and the node: claims and other pods.
func (q *question) dynamic(n *Node) (Reason, Cause) {
	if reason := q.claims.refuse(n.Object); reason != "" {
		return reason, CauseVolume | CauseNode
	}
	return q.topology.refuse(n)
}
