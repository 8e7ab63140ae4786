package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Book keeps the table of one node. What a change costs grows with what it changes: a pod's, with the number of different
// selectors there are; a policy's, with the pods that its peers are chosen from. It may be used from one goroutine at
// a time.
type Book struct {
	// local says which pods are the node's: those alone are members.
	local func(*corev1.Pod) bool

	pods       map[string]map[Key]*entry // by namespace
	namespaces map[string]labels.Set
	policies   map[string]map[Key]*compiled // by namespace

	sets   map[string]*set
	chains map[string]*chain
	// members has the pods of each; of two that share an address for a moment, the newer counts.
	members map[Member][]*entry

	touched changes
}

// entry is a pod of the book.
type entry struct {
	*pod
	local  bool
	chains map[Direction]string
}

// set is one of the table, with how often each element is in it and how many rules of chains refer to it.
type set struct {
	source
	shape    Shape
	refs     int
	elements map[Element]int
}

// source is what a set is made of: a block, pods, or the endpoints that pods have by the name of a port. Of both, those
// of the pods that are in the block.
type source struct {
	block     *block
	selection *selection
	port      port
}

func (s *source) id() string {
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
	return strings.Join(parts, " ")
}

func (s *source) of(p *pod) []Element {
	out := p.addresses()
	if s.port.name != "" {
		out = p.endpoints(s.port.name, s.port.Protocol)
	}
	if s.block != nil {
		out = slices.DeleteFunc(out, func(e Element) bool { return !s.block.holds(e.First) })
	}
	return out
}

type chain struct {
	rules Chain
	refs  int
}

// NewBook returns a book of nothing.
func NewBook(local func(*corev1.Pod) bool) *Book {
	return &Book{
		local: local, pods: map[string]map[Key]*entry{}, namespaces: map[string]labels.Set{}, policies: map[string]map[Key]*compiled{},
		sets: map[string]*set{}, chains: map[string]*chain{}, members: map[Member][]*entry{}, touched: newChanges(),
	}
}

// Pod notes a pod as it is now; what says nothing new costs little.
func (b *Book) Pod(p *corev1.Pod) {
	next := podOf(p)
	key := Key{p.Namespace, p.Name}
	if next == nil {
		b.drop(key)
		return
	}
	e, local := b.pods[key.Namespace][key], b.local(p)
	if e != nil && e.local == local && alike(e.pod, next) {
		return
	}
	b.drop(key)
	e = &entry{pod: next, local: local, chains: map[Direction]string{}}
	if b.pods[key.Namespace] == nil {
		b.pods[key.Namespace] = map[Key]*entry{}
	}
	b.pods[key.Namespace][key] = e
	b.count(e, b.namespaces[key.Namespace], 1)
	b.judge(e)
}

// NoPod forgets a pod.
func (b *Book) NoPod(key Key) { b.drop(key) }

func alike(a, b *pod) bool {
	return maps.Equal(a.labels, b.labels) && slices.Equal(a.addrs, b.addrs) && slices.Equal(a.ports, b.ports)
}

func (b *Book) drop(key Key) {
	e := b.pods[key.Namespace][key]
	if e == nil {
		return
	}
	b.count(e, b.namespaces[key.Namespace], -1)
	delete(b.pods[key.Namespace], key)
	if len(b.pods[key.Namespace]) == 0 {
		delete(b.pods, key.Namespace)
	}
	for _, d := range directions {
		b.join(e, d, "", nil)
	}
}

// Namespace notes the labels of a namespace; nil ones, that it is not there.
func (b *Book) Namespace(name string, now map[string]string) {
	before := b.namespaces[name]
	if maps.Equal(before, now) {
		return
	}
	for _, e := range b.pods[name] {
		b.count(e, before, -1)
		b.count(e, now, 1)
	}
	if b.namespaces[name] = now; now == nil {
		delete(b.namespaces, name)
	}
}

// Policy notes a policy as it is now.
func (b *Book) Policy(p *networkingv1.NetworkPolicy) {
	if b.policies[p.Namespace] == nil {
		b.policies[p.Namespace] = map[Key]*compiled{}
	}
	b.policies[p.Namespace][Key{p.Namespace, p.Name}] = compile(p)
	b.rejudge(p.Namespace)
}

// NoPolicy forgets a policy.
func (b *Book) NoPolicy(key Key) {
	delete(b.policies[key.Namespace], key)
	if len(b.policies[key.Namespace]) == 0 {
		delete(b.policies, key.Namespace)
	}
	b.rejudge(key.Namespace)
}

func (b *Book) rejudge(namespace string) {
	for _, e := range b.pods[namespace] {
		b.judge(e)
	}
}

// count adds a pod to the sets that it belongs in, or takes it out, by times.
func (b *Book) count(e *entry, ns labels.Set, times int) {
	for id, s := range b.sets {
		if s.selection != nil && s.selection.holds(e.pod, ns) {
			b.add(id, s, s.of(e.pod), times)
		}
	}
}

func (b *Book) add(id string, s *set, elements []Element, times int) {
	for _, el := range elements {
		was := s.elements[el] > 0
		if s.elements[el] += times; s.elements[el] == 0 {
			delete(s.elements, el)
		}
		b.touched.element(id, el, was)
	}
}

// judge puts a pod of this node under the chains that its policies make for it.
func (b *Book) judge(e *entry) {
	if !e.local {
		return
	}
	for _, d := range directions {
		var selecting []*compiled
		for _, p := range b.policies[e.key.Namespace] {
			if _, governs := p.rules[d]; governs && p.pods.Matches(e.labels) {
				selecting = append(selecting, p)
			}
		}
		if len(selecting) == 0 {
			b.join(e, d, "", nil)
			continue
		}
		slices.SortFunc(selecting, func(a, b *compiled) int { return compare(a.key, b.key) })
		w := writing{target: e.pod, direction: d}
		for _, p := range selecting {
			for i := range p.rules[d] {
				w.rule(&p.rules[d][i])
			}
		}
		b.join(e, d, w.name(), &w)
	}
}

// join puts a pod under a chain, none by the empty name. The chain is made if it is not there, the one before goes
// with the last pod under it.
func (b *Book) join(e *entry, d Direction, name string, w *writing) {
	before := e.chains[d]
	if before == name {
		return
	}
	if name != "" {
		b.acquire(name, w)
	}
	e.chains[d] = name
	for _, a := range e.addrs {
		m := Member{d, a}
		b.touched.member(m, b.chainOf(m, before, e))
		at := slices.Index(b.members[m], e)
		switch {
		case name != "" && at < 0:
			b.members[m] = append(b.members[m], e)
		case name == "" && at >= 0:
			if b.members[m] = slices.Delete(b.members[m], at, at+1); len(b.members[m]) == 0 {
				delete(b.members, m)
			}
		}
	}
	if before != "" {
		b.release(before)
	}
}

// chainOf returns the chain that a member is under, e being still under the one before.
func (b *Book) chainOf(m Member, before string, e *entry) string {
	all := b.members[m]
	if len(all) == 0 {
		return ""
	}
	if last := all[len(all)-1]; last != e {
		return last.chains[m.Direction]
	}
	return before
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
				delete(b.sets, r.Set)
			}
		}
	}
}

// use counts a use of a set, and fills it if it is the first.
func (b *Book) use(src source) {
	id := src.id()
	if s := b.sets[id]; s != nil {
		s.refs++
		return
	}
	s := &set{source: src, refs: 1, elements: map[Element]int{}}
	b.sets[id] = s
	b.touched.set(id, false)
	switch {
	case src.selection == nil:
		s.shape = Ranges
		b.add(id, s, src.block.ranges(), 1)
		return
	case src.port.name != "":
		s.shape = Endpoints
	}
	fill := func(namespace string) {
		for _, e := range b.pods[namespace] {
			if src.selection.holds(e.pod, b.namespaces[namespace]) {
				b.add(id, s, src.of(e.pod), 1)
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

// writing is a chain in the making, for one pod and direction.
type writing struct {
	target    *pod
	direction Direction
	rules     Chain
	sources   []source // of each rule that has a set
}

// name is the same for chains that mean the same.
func (w *writing) name() string {
	var text strings.Builder
	for _, r := range w.rules {
		fmt.Fprintf(&text, "%s %v\n", r.Set, r.Ports)
	}
	sum := sha256.Sum256([]byte(text.String()))
	return hex.EncodeToString(sum[:8])
}

func (w *writing) rule(r *rule) {
	peers := r.peers
	if len(peers) == 0 {
		peers = []peer{{}}
	}
	for _, p := range peers {
		if len(r.ports) == 0 {
			w.allow(p, nil)
		}
		for i := range r.ports {
			w.port(p, &r.ports[i])
		}
	}
}

// port allows a peer at a port. A name is looked up in the connection's target: of what comes in that is the pod itself, of
// what goes out each peer.
func (w *writing) port(p peer, at *port) {
	switch {
	case at.name == "":
		w.allow(p, &at.Ports)
	case w.direction == Ingress:
		for _, n := range w.target.numbers(at.name, at.Protocol) {
			w.allow(p, &Ports{at.Protocol, n, n})
		}
	default:
		s := p.selection
		if s == nil {
			s = &selection{namespaces: labels.Everything(), pods: labels.Everything()}
		}
		w.from(source{p.block, s, *at}, &Ports{Protocol: at.Protocol})
	}
}

func (w *writing) allow(p peer, ports *Ports) {
	if p.block == nil && p.selection == nil {
		w.rules = append(w.rules, Allow{Ports: ports})
		return
	}
	w.from(source{block: p.block, selection: p.selection}, ports)
}

func (w *writing) from(s source, ports *Ports) {
	w.rules = append(w.rules, Allow{Set: s.id(), Ports: ports})
	w.sources = append(w.sources, s)
}
