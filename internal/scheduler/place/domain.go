package place

// A domain is the nodes that share a value of a label. A key like the zone has few large domains:
// there, nodes are told apart by the value itself, and a count that changes concerns no node's
// standing. A key like the host name has as many domains as nodes: there, nodes are told apart
// by the counts in their domains, few of which differ, and a count that changes concerns the few
// nodes of its domain. Both cost at most about the square root of the number of nodes.

// domains is the keys in use, each with its domains.
type domains map[string]*domainKey

// domainKey is a label key with the nodes of each value.
type domainKey struct {
	members map[string][]*Node
	// fine says that there are many domains.
	fine bool
}

// domainsOf returns a key's domains, up to date.
func (s *State) domainsOf(key string) *domainKey {
	k := s.domains[key]
	if k == nil {
		k = &domainKey{members: map[string][]*Node{}}
		for _, n := range s.nodes {
			if n.Object != nil {
				k.join(key, n)
			}
		}
		k.fine = k.size(len(s.nodes))
		s.domains[key] = k
	}
	return k
}

// size says whether the domains are fine; near the border they stay what they were.
func (k *domainKey) size(nodes int) bool {
	if squared := len(k.members) * len(k.members); k.fine {
		return 2*squared >= nodes
	} else {
		return squared > 2*nodes
	}
}

func (k *domainKey) join(key string, n *Node) {
	if value, ok := n.Object.Labels[key]; ok {
		k.members[value] = append(k.members[value], n)
	}
}

func (k *domainKey) leave(key string, n *Node) {
	value, ok := n.Object.Labels[key]
	if !ok {
		return
	}
	list := k.members[value]
	for i := range list {
		if list[i] == n {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			break
		}
	}
	if k.members[value] = list; len(list) == 0 {
		delete(k.members, value)
	}
}

// leaveDomains takes a node, if it is known, and its pods out of the domains of its labels.
func (s *State) leaveDomains(n *Node) {
	if n.Object == nil {
		return
	}
	for _, p := range n.pods {
		s.count(p, n, -1)
	}
	for key, k := range s.domains {
		k.leave(key, n)
	}
}

// joinDomains puts a known node and its pods into the domains of its labels.
func (s *State) joinDomains(n *Node) {
	for key, k := range s.domains {
		k.join(key, n)
		if fine := k.size(len(s.nodes)); fine != k.fine {
			k.fine = fine
			// How nodes are told apart has changed.
			s.classes.forget(key)
		}
	}
	for _, p := range n.pods {
		s.count(p, n, 1)
	}
}
