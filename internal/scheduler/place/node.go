package place

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// State is the picture decisions are made on. It is not safe for concurrent use.
type State struct {
	nodes map[string]*Node
	// order is the nodes by name; rebuilt when one comes or goes.
	order []*Node
	stale bool
	// homes says which node each pod counts on.
	homes map[types.UID]*Pod
	// hosts counts nodes by the hostname label, and twins those that share it with another: while
	// there is none, each hostname is a domain of one node.
	hosts map[string]int
	twins int
	// priorities counts the pods by priority.
	priorities map[int32]int
	// version grows with each change.
	version uint64

	classes classes
	tallies tallies
}

// NewState returns an empty picture.
func NewState() *State {
	return &State{
		nodes: map[string]*Node{}, homes: map[types.UID]*Pod{},
		hosts: map[string]int{}, priorities: map[int32]int{},
		classes: newClasses(), tallies: newTallies(),
	}
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
	// owned counts the pods by their controller.
	owned map[types.UID]int64
	// images are the names of the images present, with their sizes in bytes.
	images map[string]int64
}

// SetNode adds or replaces a node's object.
func (s *State) SetNode(obj *corev1.Node) {
	n := s.node(obj.Name)
	before := n.Object
	if before == nil {
		s.stale = true
	}
	if before == nil || !maps.Equal(before.Labels, obj.Labels) {
		s.name(before, -1)
		s.name(obj, 1)
		// The node's pods count in other domains from now on.
		for _, p := range n.pods {
			s.tallies.count(p, n, -1)
		}
		n.Object = obj
		for _, p := range n.pods {
			s.tallies.count(p, n, 1)
		}
	}
	n.Object = obj
	n.Allocatable = amountsOf(obj.Status.Allocatable)
	n.images = imagesOf(obj)
	s.touch(n)
}

// RemoveNode forgets a node's object; pods that still name it stay counted.
func (s *State) RemoveNode(name string) {
	n := s.nodes[name]
	if n == nil {
		return
	}
	s.stale = true
	for _, p := range n.pods {
		s.tallies.count(p, n, -1)
	}
	s.name(n.Object, -1)
	n.Object = nil
	s.touch(n)
	if len(n.pods) == 0 {
		delete(s.nodes, name)
	}
}

// touch records that a node, or what is on it, changed.
func (s *State) touch(n *Node) {
	s.version++
	s.classes.touch(n)
}

// name counts a node's hostname, or with sign -1 no longer.
func (s *State) name(obj *corev1.Node, sign int) {
	if obj == nil {
		return
	}
	host, ok := obj.Labels[corev1.LabelHostname]
	if !ok {
		return
	}
	before := s.twins
	s.twins -= max(s.hosts[host]-1, 0)
	if s.hosts[host] += sign; s.hosts[host] == 0 {
		delete(s.hosts, host)
	}
	s.twins += max(s.hosts[host]-1, 0)
	if (before == 0) != (s.twins == 0) {
		// Classes group nodes by whether a hostname is theirs alone.
		clear(s.classes.byKey)
	}
}

// ownDomain says that each domain of a topology key is one node.
func (s *State) ownDomain(key string) bool { return key == corev1.LabelHostname && s.twins == 0 }

func (s *State) node(name string) *Node {
	n := s.nodes[name]
	if n == nil {
		n = &Node{Name: name, pods: map[types.UID]*Pod{}, ports: map[port]int{}, owned: map[types.UID]int64{}}
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

// AddPod counts a pod on a node, moving it there if it was counted elsewhere.
func (s *State) AddPod(p *Pod, node string) {
	s.RemovePod(p.UID)
	n := s.node(node)
	p.Node = node
	n.pods[p.UID] = p
	n.use(p, 1)
	s.homes[p.UID] = p
	s.tallies.count(p, n, 1)
	s.priorities[p.priority()]++
	s.touch(n)
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
	n.use(p, -1)
	s.tallies.count(p, n, -1)
	if s.priorities[p.priority()]--; s.priorities[p.priority()] == 0 {
		delete(s.priorities, p.priority())
	}
	s.touch(n)
	if n.Object == nil && len(n.pods) == 0 {
		delete(s.nodes, n.Name)
	}
}

// use adds (or with sign -1 takes away) what a pod takes of the node.
func (n *Node) use(p *Pod, sign int64) {
	n.Used.add(p.Request, sign)
	n.Used.Pods += sign
	n.scoring.add(p.scoring, sign)
	if p.owner != "" {
		if n.owned[p.owner] += sign; n.owned[p.owner] == 0 {
			delete(n.owned, p.owner)
		}
	}
	for _, port := range p.ports {
		if n.ports[port] += int(sign); n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
}

// Home returns the node a pod counts on, or "".
func (s *State) Home(uid types.UID) string {
	if p := s.homes[uid]; p != nil {
		return p.Node
	}
	return ""
}

func imagesOf(obj *corev1.Node) map[string]int64 {
	if len(obj.Status.Images) == 0 {
		return nil
	}
	images := make(map[string]int64, len(obj.Status.Images))
	for _, img := range obj.Status.Images {
		for _, name := range img.Names {
			images[name] = img.SizeBytes
		}
	}
	return images
}
