package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// set is one of the table, with how often each element is in it and how many rules of chains refer to it.
type set struct {
	source
	shape    Shape
	refs     int
	elements map[Element]int
}

// source is what a set is made of: a block, pods, or the endpoints that pods have by the name of a port. Of both, those
// of the pods that are in the block. With names it is the name server, where the selection chooses it.
type source struct {
	block     *block
	selection *selection
	port      port
	names     bool
}

func (s *source) shape() Shape {
	switch {
	case s.names, s.port.name != "":
		return Endpoints
	case s.selection == nil:
		return Ranges
	}
	return Addresses
}

// name is the same for sets that mean the same, whosever they are. What it is made of can be written by users, so that it
// is long enough for nobody to find two that share it.
func (s *source) name() string {
	sum := sha256.Sum256([]byte(s.text()))
	return shapeNames[s.shape()] + hex.EncodeToString(sum[:16])
}

var shapeNames = map[Shape]string{Addresses: "pods-", Ranges: "block-", Endpoints: "ports-"}

// ShapeOf tells the shape of a set from its name; ok is false for a name that no set has.
func ShapeOf(name string) (shape Shape, ok bool) {
	for shape, prefix := range shapeNames {
		if rest, is := strings.CutPrefix(name, prefix); is && len(rest) == 32 {
			return shape, true
		}
	}
	return 0, false
}

// text says what is in the set.
func (s *source) text() string {
	var parts []string
	if s.block != nil {
		parts = append(parts, s.block.id())
	}
	if s.selection != nil {
		parts = append(parts, s.selection.id())
	}
	if s.port.name != "" {
		parts = append(parts, "port "+s.port.name+"/"+string(s.port.Protocol))
	}
	if s.names {
		parts = append(parts, "name server")
	}
	return strings.Join(parts, " ")
}

func (s *source) of(p *pod) []Element {
	var out []Element
	switch {
	case s.port.name != "":
		out = p.endpoints(s.port.name, s.port.Protocol)
	case s.names && p.names:
		out = p.endpoints(NamesPort, corev1.ProtocolUDP)
	case s.names || p.names: // the name server is a peer at its port alone, its address is the node's
	default:
		out = p.addresses()
	}
	if s.block != nil {
		out = slices.DeleteFunc(out, func(e Element) bool { return !s.block.holds(e.First) })
	}
	return out
}

func (b *Book) acquire(name string, w *writing) {
	c := b.chains[name]
	if c == nil {
		c = &chain{rules: w.rules}
		b.chains[name] = c
		b.touched.chain(name, false)
		for _, src := range w.sources {
			b.use(src)
		}
	}
	c.refs++
}

func (b *Book) release(name string) {
	c := b.chains[name]
	if c.refs--; c.refs > 0 {
		return
	}
	b.touched.chain(name, true)
	delete(b.chains, name)
	for _, r := range c.rules {
		if s := b.sets[r.Set]; s != nil {
			if s.refs--; s.refs == 0 {
				for el := range s.elements {
					b.touched.element(r.Set, el, true)
				}
				b.touched.set(r.Set, true)
				b.file(r.Set, s, false)
			}
		}
	}
}

// use counts a use of a set, and fills it if it is the first.
func (b *Book) use(src source) {
	name := src.name()
	if s := b.sets[name]; s != nil {
		s.refs++
		return
	}
	s := &set{source: src, shape: src.shape(), refs: 1, elements: map[Element]int{}}
	b.file(name, s, true)
	b.touched.set(name, false)
	if src.selection == nil {
		b.add(name, s, src.block.ranges(b.aliases), 1)
		return
	}
	fill := func(namespace string) {
		for _, e := range b.pods[namespace] {
			if src.selection.holds(e.pod, b.namespaces[namespace]) {
				b.add(name, s, src.of(e.pod), 1)
			}
		}
	}
	if src.selection.namespaces == nil {
		fill(src.selection.namespace)
		return
	}
	for namespace := range b.pods {
		fill(namespace)
	}
}

// file puts a set where a pod that changes finds it, or takes it away.
func (b *Book) file(name string, s *set, there bool) {
	put := func(in map[string]*set) {
		if there {
			in[name] = s
		} else {
			delete(in, name)
		}
	}
	put(b.sets)
	switch sel := s.selection; {
	case sel == nil:
	case sel.namespaces != nil:
		put(b.far)
	default:
		if b.near[sel.namespace] == nil {
			b.near[sel.namespace] = map[string]*set{}
		}
		if put(b.near[sel.namespace]); len(b.near[sel.namespace]) == 0 {
			delete(b.near, sel.namespace)
		}
	}
}
