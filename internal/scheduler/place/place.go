// Package place decides where a pod goes: which nodes can take it, which of those is best, and,
// when none can, why not, counted by cause.
//
// It owns the scheduler's picture of the nodes (what is used on each) as sums that are kept up
// to date pod by pod, so that a decision never counts pods. It is pure: it refuses clocks,
// randomness, I/O and goroutines. Queueing and binding are package scheduler's.
package place

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/plan"
)

// State is the picture decisions are made on. It is not safe for concurrent use.
type State struct {
	nodes map[string]*Node
	// order is the nodes by name; rebuilt when one comes or goes.
	order []*Node
	stale bool
	// homes says which node each pod counts on.
	homes map[types.UID]*Pod
}

// NewState returns an empty picture.
func NewState() *State {
	return &State{nodes: map[string]*Node{}, homes: map[types.UID]*Pod{}}
}

// Node is a node and what is used on it.
type Node struct {
	Name string
	// Object is nil for a node that is not known (yet) though pods name it.
	Object *corev1.Node
	// Allocatable is what the node has for pods; Used is the sum of its pods' requests.
	Allocatable, Used Amounts
	// scoring is the sum of the pods' requests, with a minimum for those that state none.
	scoring Amounts
	pods    map[types.UID]*Pod
	ports   map[port]int
}

// SetNode adds or replaces a node's object.
func (s *State) SetNode(obj *corev1.Node) {
	n := s.node(obj.Name)
	if n.Object == nil {
		s.stale = true
	}
	n.Object = obj
	n.Allocatable = amountsOf(obj.Status.Allocatable)
}

// RemoveNode forgets a node's object; pods that still name it stay counted.
func (s *State) RemoveNode(name string) {
	n := s.nodes[name]
	if n == nil {
		return
	}
	s.stale = true
	n.Object = nil
	if len(n.pods) == 0 {
		delete(s.nodes, name)
	}
}

func (s *State) node(name string) *Node {
	n := s.nodes[name]
	if n == nil {
		n = &Node{Name: name, pods: map[types.UID]*Pod{}, ports: map[port]int{}}
		s.nodes[name] = n
	}
	return n
}

// list is every known node, by name.
func (s *State) list() []*Node {
	if s.stale {
		s.order = s.order[:0]
		for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
			if n := s.nodes[name]; n.Object != nil {
				s.order = append(s.order, n)
			}
		}
		s.stale = false
	}
	return s.order
}

// AddPod counts a pod on the node it names, moving it there if it was counted elsewhere.
func (s *State) AddPod(p *Pod, node string) {
	s.RemovePod(p.UID)
	n := s.node(node)
	p.Node = node
	n.pods[p.UID] = p
	n.Used.add(p.Request, 1)
	n.Used.Pods++
	n.scoring.add(p.scoring, 1)
	for _, port := range p.ports {
		n.ports[port]++
	}
	s.homes[p.UID] = p
}

// RemovePod stops counting a pod.
func (s *State) RemovePod(uid types.UID) {
	p := s.homes[uid]
	if p == nil {
		return
	}
	delete(s.homes, uid)
	n := s.nodes[p.Node]
	delete(n.pods, uid)
	n.Used.add(p.Request, -1)
	n.Used.Pods--
	n.scoring.add(p.scoring, -1)
	for _, port := range p.ports {
		if n.ports[port]--; n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
	if n.Object == nil && len(n.pods) == 0 {
		delete(s.nodes, n.Name)
	}
}

// Home returns the node a pod counts on, or "".
func (s *State) Home(uid types.UID) string {
	if p := s.homes[uid]; p != nil {
		return p.Node
	}
	return ""
}

// Decision is where a pod goes, or why it goes nowhere.
type Decision struct {
	// Node is the node chosen; empty when there is none.
	Node string
	// Select are unbound claims (WaitForFirstConsumer) that must first be told the node.
	Select []*corev1.PersistentVolumeClaim
	// Nodes is how many nodes there are.
	Nodes int
	// Refused counts nodes by the reason they refused, in the words users see.
	Refused map[string]int
	// Causes is what must change for the pod to fit.
	Causes Cause
	// Blocked is a reason that holds whatever the node, such as a missing claim.
	Blocked string
}

// Cause is a set of the sorts of things that keep a pod from its place.
type Cause uint16

// The causes. A change in the cluster wakes the pods that wait for its sort.
const (
	// CauseNode: a node's labels, taints, or schedulability.
	CauseNode Cause = 1 << iota
	// CauseResources: room on a node, freed by another pod's end or a node's growth.
	CauseResources
	// CauseVolume: claims, volumes and classes.
	CauseVolume
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

// Place decides for one pod. prefer is a node to choose among equals, or "".
func (s *State) Place(p *Pod, r plan.Reader, prefer string) Decision {
	nodes := s.list()
	d := Decision{Nodes: len(nodes)}
	if len(p.Object.Spec.SchedulingGates) > 0 {
		d.Blocked, d.Causes = "Scheduling is blocked due to non-empty scheduling gates", CauseGates
		return d
	}
	claims, blocked := claimsOf(p.Object, r)
	if blocked != "" {
		d.Blocked, d.Causes = blocked, CauseVolume
		return d
	}
	d.Refused = map[string]int{}
	if p.pinned != "" {
		// Daemon pods name their node: no other need be asked.
		n := s.nodes[p.pinned]
		others := len(nodes)
		nodes = nil
		if n != nil && n.Object != nil {
			nodes = []*Node{n}
			others--
		}
		if others > 0 {
			d.Refused[reasonAffinity] = others
			d.Causes |= CauseNode
		}
	}
	var best *Node
	var bestScore int64
	for _, n := range nodes {
		reason, cause := refuse(p, n, claims)
		if reason != "" {
			d.Refused[reason]++
			d.Causes |= cause
			continue
		}
		score := score(p, n)
		if n.Name == prefer {
			score += maxScore
		}
		if best == nil || score > bestScore {
			best, bestScore = n, score
		}
	}
	if best != nil {
		d.Node, d.Select = best.Name, claims.unbound
	}
	return d
}
