package place

// quickTries bounds the nodes set aside in a quick search before all are asked at once.
const quickTries = 64

// quick finds the best node without asking them all, or says that it cannot be sure. Groups whose
// domains refuse the pod are passed over whole; nodes that are a domain of their own and refuse
// stay parked. Where the score depends on other pods' places, and where none fits and the
// refusals must be counted, all nodes have to be asked.
func (q *question) quick(c *class) (best *Node, sure bool) {
	t := &q.topology
	if !q.claims.free() || len(t.prefer)+len(t.soft) > 0 {
		return nil, false
	}
	q.unpark(c)
	var found *verdict
	for _, g := range c.groups {
		if g.nodes.Len() == 0 {
			continue
		}
		first := g.nodes.First()
		if found != nil && !better(first, found) {
			continue
		}
		if reason, _ := t.refuseOwn(first.node, q.shared); reason != "" {
			continue
		}
		v, sure := q.bestOf(c, g)
		if !sure {
			return nil, false
		}
		if v != nil && (found == nil || better(v, found)) {
			found = v
		}
	}
	if found == nil {
		return nil, false
	}
	return found.node, true
}

// bestOf is the best node of a group whose shared domains suit the pod, or nil.
func (q *question) bestOf(c *class, g *group) (best *verdict, sure bool) {
	var aside []*verdict
	defer func() {
		for _, v := range aside {
			c.stand(v)
		}
	}()
	for g.nodes.Len() > 0 {
		v := g.nodes.First()
		if reason, _ := q.topology.refuseOwn(v.node, q.state.ownDomain); reason != "" {
			c.park(v)
			continue
		}
		if reason, _ := q.topology.repelled(v.node); reason == "" {
			return v, true
		}
		if len(aside) == quickTries {
			return nil, false
		}
		c.leave(v)
		aside = append(aside, v)
	}
	return nil, true
}

func (q *question) shared(key string) bool { return !q.state.ownDomain(key) }

// unpark asks parked nodes anew when what holds for all of them has changed: the floor of a
// spread over nodes, or whether the pod is the first of an affine group.
func (q *question) unpark(c *class) {
	changed := c.first != q.topology.first
	c.first = q.topology.first
	for _, count := range c.spreads {
		if !q.state.ownDomain(count.key) {
			continue
		}
		if floor := count.floor(); floor != count.parked {
			count.parked = floor
			changed = true
		}
	}
	if changed {
		c.unpark()
	}
}
