package place

import (
	"maps"

	"coracle/internal/scheduler/order"
)

// Most pods are like others: the replicas of a template differ only in name. Such pods form a
// class, and what each node answers to a class is remembered until the node changes. Placing
// one more pod of a class then costs the nodes that changed since the last one, mostly the one
// that took it, and a step in a heap, however many nodes and pods there are.

// maxClasses bounds the classes remembered; the one not asked for longest is forgotten.
const maxClasses = 128

type classes struct {
	byKey map[string]*class
	// log is the nodes in the order they changed; base is the position of its first entry.
	log  []*Node
	base int
	// read is how far the class that asked last has read.
	read int
	// asked counts questions, as the age of classes.
	asked int
}

func newClasses() classes { return classes{byKey: map[string]*class{}} }

// touch records that a node changed.
func (c *classes) touch(n *Node) {
	if len(c.byKey) == 0 {
		return
	}
	if end := len(c.log); end > 0 && c.log[end-1] == n && c.base+end > c.read {
		return
	}
	c.log = append(c.log, n)
}

// trim forgets the part of the log that every class has seen, and classes that lag so far
// behind that asking all nodes anew is cheaper.
func (c *classes) trim(nodes int) {
	if len(c.log) < 2*nodes+64 {
		return
	}
	end := c.base + len(c.log)
	oldest := end
	for key, k := range c.byKey {
		if end-k.seen > nodes {
			delete(c.byKey, key)
			continue
		}
		oldest = min(oldest, k.seen)
	}
	c.log = append(c.log[:0:0], c.log[oldest-c.base:]...)
	c.base = oldest
}

// class is what the nodes answer to one sort of pod.
type class struct {
	pod      *Pod
	verdicts map[*Node]*verdict
	// groups hold the nodes that can take the pod as far as they alone decide, by their values of
	// the shared topology keys that the pod asks about: in a group other pods' places in such
	// domains mean the same for all. A pod that asks about none has one group.
	groups map[string]*group
	shared []string
	// parked are the nodes refused in a domain of their own (class.park).
	parked map[*Node]*verdict
	// spreads counts for each of the pod's spread rules.
	spreads []*spreadCount
	// first is what topology.first was when nodes were parked.
	first bool
	// refusal is the last refusal of a pod of the class.
	refusal refusal
	// hopeless is the last time that no preemption helped one; it goes for lower priorities too.
	hopeless refusal
	// refused counts the other nodes by reason; byCause by cause, and causes is their union.
	refused map[string]int
	byCause map[Cause]int
	causes  Cause
	// seen is how far in the log of changes the class is.
	seen int
	used int
}

// group holds nodes, the best first.
type group struct{ nodes order.Heap[*verdict] }

// verdict is a node's answer: a reason to refuse, or a score.
type verdict struct {
	node   *Node
	reason string
	cause  Cause
	score  int64
	index  int
	// group is where the verdict stands; nil for a refusal and a parked node.
	group    *group
	groupKey string
	parked   bool
}

// class returns the up-to-date answers to pods like p.
func (s *State) class(p *Pod) *class {
	cs := &s.classes
	cs.asked++
	cs.trim(len(s.nodes))
	end := cs.base + len(cs.log)
	c := cs.byKey[p.class]
	if c == nil {
		if len(cs.byKey) >= maxClasses {
			cs.forgetOldest()
		}
		c = s.newClass(p)
		cs.byKey[p.class] = c
		for _, n := range s.list() {
			s.ask(c, n)
		}
	} else {
		for _, n := range cs.log[c.seen-cs.base:] {
			s.ask(c, n)
		}
	}
	c.seen, c.used, cs.read = end, cs.asked, end
	return c
}

func (cs *classes) forgetOldest() {
	var oldest string
	for key, c := range cs.byKey {
		if oldest == "" || c.used < cs.byKey[oldest].used || c.used == cs.byKey[oldest].used && key < oldest {
			oldest = key
		}
	}
	delete(cs.byKey, oldest)
}

func (s *State) newClass(p *Pod) *class {
	c := &class{
		pod: p, verdicts: map[*Node]*verdict{}, groups: map[string]*group{}, parked: map[*Node]*verdict{},
		refused: map[string]int{}, byCause: map[Cause]int{},
	}
	for _, key := range p.topologyKeys {
		if !s.ownDomain(key) {
			c.shared = append(c.shared, key)
		}
	}
	for i := range p.spreads {
		c.spreads = append(c.spreads, newSpreadCount(&p.spreads[i]))
	}
	return c
}

// best is the best node, or nil.
func (c *class) best() *Node {
	var best *verdict
	for _, g := range c.groups {
		if g.nodes.Len() > 0 && (best == nil || better(g.nodes.First(), best)) {
			best = g.nodes.First()
		}
	}
	if best == nil {
		return nil
	}
	return best.node
}

// ask takes a node's present answer.
func (s *State) ask(c *class, n *Node) {
	c.drop(n)
	for _, count := range c.spreads {
		count.take(s.tally(count.term), c.pod, n)
	}
	if n.Object == nil {
		return
	}
	v := &verdict{node: n, groupKey: c.groupOf(n)}
	v.reason, v.cause = static(c.pod, n)
	c.verdicts[n] = v
	if v.reason == "" {
		v.score = score(c.pod, n)
		c.stand(v)
		return
	}
	c.refused[v.reason]++
	c.byCause[v.cause]++
	c.causes |= v.cause
}

// drop forgets a node's answer.
func (c *class) drop(n *Node) {
	v := c.verdicts[n]
	if v == nil {
		return
	}
	delete(c.verdicts, n)
	if v.reason == "" {
		c.leave(v)
		if g := c.groups[v.groupKey]; g != nil && g.nodes.Len() == 0 {
			delete(c.groups, v.groupKey)
		}
		return
	}
	if c.refused[v.reason]--; c.refused[v.reason] == 0 {
		delete(c.refused, v.reason)
	}
	if c.byCause[v.cause]--; c.byCause[v.cause] == 0 {
		delete(c.byCause, v.cause)
		c.causes = 0
		for cause := range c.byCause {
			c.causes |= cause
		}
	}
}

// stand puts a node that can take the pod among its group.
func (c *class) stand(v *verdict) {
	at := v.groupKey
	g := c.groups[at]
	if g == nil {
		g = &group{order.New(better, func(v *verdict) *int { return &v.index })}
		c.groups[at] = g
	}
	v.group = g
	g.nodes.Push(v)
}

// leave takes a node out of its group, or out of those parked.
func (c *class) leave(v *verdict) {
	if v.parked {
		v.parked = false
		delete(c.parked, v.node)
		return
	}
	v.group.nodes.Remove(v)
	v.group = nil
}

// park sets a node aside that other pods' places keep the pod from, in a domain that is the node
// alone. The answer can change only when the node does, which asks it anew, or when something
// that holds for all nodes does, upon which all are unparked.
func (c *class) park(v *verdict) {
	c.leave(v)
	v.parked = true
	c.parked[v.node] = v
}

func (c *class) unpark() {
	for _, v := range c.parked {
		v.parked = false
		c.stand(v)
	}
	clear(c.parked)
}

// better orders by score, then by name, so that equal worlds give equal decisions.
func better(a, b *verdict) bool {
	if a.score != b.score {
		return a.score > b.score
	}
	return a.node.Name < b.node.Name
}

// groupOf is a node's values of the shared keys, as one string.
func (c *class) groupOf(n *Node) string {
	switch len(c.shared) {
	case 0:
		return ""
	case 1:
		if value, ok := n.Object.Labels[c.shared[0]]; ok {
			return "=" + value
		}
		return ""
	}
	var key []byte
	for _, k := range c.shared {
		if value, ok := n.Object.Labels[k]; ok {
			key = append(append(key, '='), value...)
		}
		key = append(key, 0)
	}
	return string(key)
}

// refusal remembers that a pod of a class was refused, and at which version of the state: a pod
// like it need not be asked about again before the state changes.
type refusal struct {
	pod     *Pod
	version uint64
	refused map[string]int
	causes  Cause
}

// holds says whether what was said to an earlier pod goes for p. Pods of a class may differ in
// labels, and by those other pods may repel them.
func (r *refusal) holds(p *Pod, version uint64) bool {
	return r.pod != nil && r.version == version && r.pod.Object.Namespace == p.Object.Namespace &&
		maps.Equal(r.pod.Object.Labels, p.Object.Labels)
}
