package place

import "container/heap"

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
	// heap holds the verdicts of nodes that can take the pod, the best first.
	heap verdictHeap
	// refused counts the other nodes by reason; byCause by cause, and causes is their union.
	refused map[string]int
	byCause map[Cause]int
	causes  Cause
	// seen is how far in the log of changes the class is.
	seen int
	used int
}

// verdict is a node's answer: a reason to refuse, or a score.
type verdict struct {
	node   *Node
	reason string
	cause  Cause
	score  int64
	index  int
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
		c = &class{pod: p, verdicts: map[*Node]*verdict{}, refused: map[string]int{}, byCause: map[Cause]int{}}
		cs.byKey[p.class] = c
		for _, n := range s.list() {
			c.ask(n)
		}
	} else {
		for _, n := range cs.log[c.seen-cs.base:] {
			c.ask(n)
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

// best is the best node, or nil.
func (c *class) best() *Node {
	if len(c.heap) == 0 {
		return nil
	}
	return c.heap[0].node
}

// ask takes a node's present answer.
func (c *class) ask(n *Node) {
	c.drop(n)
	if n.Object == nil {
		return
	}
	v := &verdict{node: n}
	v.reason, v.cause = static(c.pod, n)
	c.verdicts[n] = v
	if v.reason == "" {
		v.score = score(c.pod, n)
		heap.Push(&c.heap, v)
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
		heap.Remove(&c.heap, v.index)
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

// verdictHeap orders by score, then by name, so that equal worlds give equal decisions.
type verdictHeap []*verdict

func (h verdictHeap) Len() int { return len(h) }

func (h verdictHeap) Less(i, j int) bool {
	if h[i].score != h[j].score {
		return h[i].score > h[j].score
	}
	return h[i].node.Name < h[j].node.Name
}

func (h verdictHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *verdictHeap) Push(x any) {
	v := x.(*verdict)
	v.index = len(*h)
	*h = append(*h, v)
}

func (h *verdictHeap) Pop() any {
	old := *h
	v := old[len(old)-1]
	*h = old[:len(old)-1]
	return v
}
