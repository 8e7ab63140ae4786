package place

// Most pods are like others: the replicas of a template differ only in name. Such pods form a
// class, and what each node answers to a class is remembered until the node changes. Placing
// one more pod of a class then costs the nodes that changed since the last one, mostly the one
// that took it, and a step in a heap, however many nodes and pods there are. Where other pods
// matter, a class sorts its nodes into groups that are alike to it in that respect (group.go):
// then one node answers for its group.

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
	asked   int
	scratch []byte
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

// forget drops the classes that tell nodes apart by a label key.
func (c *classes) forget(key string) {
	for id, k := range c.byKey {
		if k.tellsBy(key) {
			delete(c.byKey, id)
		}
	}
}

// class is what the nodes answer to one sort of pod.
type class struct {
	pod *Pod
	// verdicts are the nodes' answers, by the nodes' ids.
	verdicts []*verdict
	grouping
	// refused counts the other nodes by reason; byCause by cause, and causes is their union.
	refused map[Reason]int
	byCause map[Cause]int
	causes  Cause
	// seen is how far in the log of changes the class is.
	seen int
	used int
}

// verdict is a node's answer: a reason to refuse, or a score.
type verdict struct {
	// node is nil when the answer is void; version is the node's when it was asked.
	node    *Node
	version int
	reason  Reason
	cause   Cause
	score   int64
	// group is where a node that can take the pod is, and index its place there.
	group *group
	index int
	// shares is what the node counts for in each spread.
	shares []share
}

// class returns the up-to-date answers to pods like p.
func (s *State) class(p *Pod, r *relations) *class {
	cs := &s.classes
	cs.asked++
	cs.trim(len(s.nodes))
	end := cs.base + len(cs.log)
	cs.scratch = append(append(append(cs.scratch[:0], p.class...), '#'), r.key...)
	c := cs.byKey[string(cs.scratch)]
	if c == nil {
		if len(cs.byKey) >= maxClasses {
			cs.forgetOldest()
		}
		c = &class{pod: p, refused: map[Reason]int{}, byCause: map[Cause]int{}, grouping: s.groupingOf(p, r)}
		cs.byKey[string(cs.scratch)] = c
		c.catchUp(s.list())
	} else {
		c.catchUp(cs.log[c.seen-cs.base:])
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

// at is the answer of a node, or nil.
func (c *class) at(n *Node) *verdict {
	if n.id < len(c.verdicts) && c.verdicts[n.id] != nil && c.verdicts[n.id].node == n {
		return c.verdicts[n.id]
	}
	return nil
}

// catchUp asks the nodes that changed. What they count for in spreads comes first, because where
// the nodes of a domain belong depends on it.
func (c *class) catchUp(changed []*Node) {
	var again []*verdict
	for _, n := range changed {
		if v := c.at(n); v != nil && v.version == n.version {
			continue
		}
		v := c.clear(n)
		if n.Object == nil {
			continue
		}
		v.node, v.version = n, n.version
		c.join(c.pod, v)
		again = append(again, v)
	}
	for _, v := range again {
		c.ask(v)
	}
	c.settle(c)
}

// clear makes a node's answer void, and that of a node that had its id before.
func (c *class) clear(n *Node) *verdict {
	for n.id >= len(c.verdicts) {
		c.verdicts = append(c.verdicts, nil)
	}
	v := c.verdicts[n.id]
	if v == nil {
		v = &verdict{}
		c.verdicts[n.id] = v
		return v
	}
	if v.node == nil {
		return v
	}
	c.leave(v)
	v.node = nil
	if v.group != nil {
		c.take(v)
		return v
	}
	if v.reason == "" {
		return v
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
	v.reason, v.cause = "", 0
	return v
}

// ask takes a node's present answer.
func (c *class) ask(v *verdict) {
	if v.node == nil {
		return
	}
	v.reason, v.cause = static(c.pod, v.node)
	if v.reason == "" {
		v.score = score(c.pod, v.node)
		c.put(v)
		return
	}
	c.refused[v.reason]++
	c.byCause[v.cause]++
	c.causes |= v.cause
}
