package place

import (
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/fit"
)

// State is the snapshot decisions are made on. It is not safe for concurrent use.
type State struct {
	nodes map[string]*Node
	// order is the nodes by name; rebuilt when one comes or goes.
	order []*Node
	stale bool
	// slots are numbers of nodes that are free again; see Node.id.
	slots []int
	// homes says which node each pod counts on.
	homes map[types.UID]*Pod
	// version counts the changes that can turn a refusal into a placement.
	version int
	// priorities counts the pods of each priority.
	priorities priorities

	shapes  shapeCache
	classes classes
	domains domains
	tallies tallies
}

// NewState returns an empty snapshot.
func NewState() *State {
	return &State{
		nodes: map[string]*Node{}, homes: map[types.UID]*Pod{}, shapes: newShapeCache(),
		classes: newClasses(), domains: domains{}, tallies: newTallies(),
	}
}

// Node is a node and what is used on it.
type Node struct {
	Name string
	// Object is nil for a node that is not known (yet) though pods name it.
	Object *corev1.Node
	// Allocatable is what the node has for pods; Used is the sum of its pods' requests.
	Allocatable, Used fit.Amounts
	// scoring is the sum of the pods' requests, with a minimum for those that state none.
	scoring fit.Amounts
	pods    []*Pod
	ports   fit.Ports
	// owned counts the pods by their controller, priorities by their priority.
	owned      []ownedPods
	priorities priorities
	// images are the names of the images present, with their sizes in bytes.
	images map[string]int64
	// id is a small number that no other node has at the same time.
	id int
	// version counts what happened to the node.
	version int
}

type ownedPods struct {
	owner types.UID
	pods  int64
}

// SetNode adds or replaces a node's object.
func (s *State) SetNode(obj *corev1.Node) {
	n := s.node(obj.Name)
	before := n.Object
	if before != nil && sameToPods(before, obj) {
		// A heartbeat: most changes of nodes are.
		n.Object = obj
		return
	}
	if before == nil {
		s.stale = true
	}
	if before == nil || !maps.Equal(before.Labels, obj.Labels) {
		// The node's pods count in other domains from now on.
		s.leaveDomains(n)
		n.Object = obj
		s.joinDomains(n)
	}
	n.Object = obj
	n.Allocatable = fit.AmountsOf(obj.Status.Allocatable)
	n.images = imagesOf(obj)
	s.touch(n)
}

// sameToPods says that nothing changed that a placement depends on.
func sameToPods(a, b *corev1.Node) bool {
	return a.Spec.Unschedulable == b.Spec.Unschedulable && maps.Equal(a.Labels, b.Labels) &&
		slices.EqualFunc(a.Spec.Taints, b.Spec.Taints, func(x, y corev1.Taint) bool { return x.MatchTaint(&y) && x.Value == y.Value }) &&
		maps.EqualFunc(a.Status.Allocatable, b.Status.Allocatable, resource.Quantity.Equal) &&
		slices.EqualFunc(a.Status.Images, b.Status.Images, func(x, y corev1.ContainerImage) bool {
			return x.SizeBytes == y.SizeBytes && slices.Equal(x.Names, y.Names)
		})
}

// RemoveNode forgets a node's object; pods that still name it stay counted.
func (s *State) RemoveNode(name string) {
	n := s.nodes[name]
	if n == nil {
		return
	}
	s.stale = true
	s.leaveDomains(n)
	n.Object = nil
	s.touch(n)
	s.release(n)
}

func (s *State) node(name string) *Node {
	n := s.nodes[name]
	if n == nil {
		n = &Node{Name: name, id: len(s.nodes)}
		if last := len(s.slots) - 1; last >= 0 {
			n.id = s.slots[last]
			s.slots = s.slots[:last]
		}
		s.nodes[name] = n
	}
	return n
}

// release forgets a node that is neither known nor named by a pod.
func (s *State) release(n *Node) {
	if n.Object == nil && len(n.pods) == 0 {
		delete(s.nodes, n.Name)
		s.slots = append(s.slots, n.id)
	}
}

// touch records that something happened to a node.
func (s *State) touch(n *Node) {
	s.version++
	n.version++
	s.classes.touch(n)
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
	p.node, p.slot = n, len(n.pods)
	n.pods = append(n.pods, p)
	n.use(p, 1)
	s.priorities.add(p.priority, 1)
	s.homes[p.UID] = p
	s.count(p, n, 1)
	s.touch(n)
}

// RemovePod stops counting a pod.
func (s *State) RemovePod(uid types.UID) {
	p := s.homes[uid]
	if p == nil {
		return
	}
	delete(s.homes, uid)
	n, last := p.node, len(p.node.pods)-1
	n.pods[p.slot] = n.pods[last]
	n.pods[p.slot].slot = p.slot
	n.pods[last] = nil
	n.pods = n.pods[:last]
	n.use(p, -1)
	s.priorities.add(p.priority, -1)
	s.count(p, n, -1)
	p.node = nil
	s.touch(n)
	s.release(n)
}

// use adds (or with sign -1 takes away) what a pod takes of the node.
func (n *Node) use(p *Pod, sign int64) {
	n.Used.Add(p.Request, sign)
	n.Used.Pods += sign
	n.scoring.Add(p.scoring, sign)
	n.priorities.add(p.priority, int(sign))
	if p.owner != "" {
		n.own(p.owner, sign)
	}
	n.ports.Use(p.ports, int(sign))
}

// own counts a pod of a controller.
func (n *Node) own(owner types.UID, sign int64) {
	i := slices.IndexFunc(n.owned, func(o ownedPods) bool { return o.owner == owner })
	if i < 0 {
		n.owned = append(n.owned, ownedPods{owner, sign})
		return
	}
	if n.owned[i].pods += sign; n.owned[i].pods == 0 {
		n.owned = slices.Delete(n.owned, i, i+1)
	}
}

// ownedBy is how many pods of a controller the node has.
func (n *Node) ownedBy(owner types.UID) int64 {
	for i := range n.owned {
		if n.owned[i].owner == owner {
			return n.owned[i].pods
		}
	}
	return 0
}

// Home returns the node a pod counts on, or "".
func (s *State) Home(uid types.UID) string {
	if p := s.homes[uid]; p != nil {
		return p.node.Name
	}
	return ""
}

// priorities counts pods by priority; there are few different ones.
type priorities []priorityCount

type priorityCount struct {
	priority int32
	pods     int
}

func (c *priorities) add(priority int32, by int) {
	for i := range *c {
		if one := &(*c)[i]; one.priority == priority {
			if one.pods += by; one.pods == 0 {
				*c = slices.Delete(*c, i, i+1)
			}
			return
		}
	}
	*c = append(*c, priorityCount{priority, by})
}

// lowest is the least priority counted, or the greatest number there is.
func (c priorities) lowest() int32 {
	least := int32(math.MaxInt32)
	for i := range c {
		least = min(least, c[i].priority)
	}
	return least
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
