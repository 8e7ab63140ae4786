package policy

import (
	"maps"
	"net/netip"
	"slices"

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

	// sets by name; near are those chosen from one namespace's pods, by that, and far those of any.
	sets   map[string]*set
	near   map[string]map[string]*set
	far    map[string]*set
	chains map[string]*chain
	// members has the pods of each; of two that share an address for a moment, the newer counts.
	members map[Member][]*entry
	// governing counts policies: without one there are no members.
	governing int
	// aliases are addresses under which the node is reached by another.
	aliases []Alias

	touched changes
}

// Alias says that what is sent to Shown arrives as sent to Real, where no policy would look for it: the API server's, which
// listens at the node's loopback address. Blocks have Real where they have Shown.
type Alias struct{ Shown, Real netip.Addr }

// entry is a pod of the book.
type entry struct {
	*pod
	local  bool
	chains map[Direction]string
}

type chain struct {
	rules Chain
	refs  int
}

// NewBook returns a book of nothing.
func NewBook(local func(*corev1.Pod) bool, aliases ...Alias) *Book {
	return &Book{
		local: local, pods: map[string]map[Key]*entry{}, namespaces: map[string]labels.Set{}, policies: map[string]map[Key]*compiled{},
		sets: map[string]*set{}, near: map[string]map[string]*set{}, far: map[string]*set{}, chains: map[string]*chain{},
		members: map[Member][]*entry{}, aliases: aliases, touched: newChanges(),
	}
}

// Governs says whether there is any policy.
func (b *Book) Governs() bool { return b.governing > 0 }

// Pod notes a pod as it is now; what says nothing new costs little.
func (b *Book) Pod(p *corev1.Pod) {
	next := podOf(p)
	key := Key{p.Namespace, p.Name}
	if next == nil {
		b.drop(key)
		return
	}
	e, local := b.pods[key.Namespace][key], b.local(p) && !next.names
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
	key := Key{p.Namespace, p.Name}
	if b.policies[p.Namespace][key] == nil {
		b.governing++
	}
	b.policies[p.Namespace][key] = compile(p)
	if b.governing == 1 {
		b.rejudgeAll()
		return
	}
	b.rejudge(p.Namespace)
}

// NoPolicy forgets a policy.
func (b *Book) NoPolicy(key Key) {
	if b.policies[key.Namespace][key] == nil {
		return
	}
	b.governing--
	delete(b.policies[key.Namespace], key)
	if len(b.policies[key.Namespace]) == 0 {
		delete(b.policies, key.Namespace)
	}
	if b.governing == 0 {
		b.rejudgeAll()
		return
	}
	b.rejudge(key.Namespace)
}

// Policies returns the keys of the policies that there are.
func (b *Book) Policies() []Key {
	var out []Key
	for _, all := range b.policies {
		out = slices.AppendSeq(out, maps.Keys(all))
	}
	return out
}

// rejudgeAll judges every pod, when the first policy has come or the last has gone.
func (b *Book) rejudgeAll() {
	for namespace := range b.pods {
		b.rejudge(namespace)
	}
}

func (b *Book) rejudge(namespace string) {
	for _, e := range b.pods[namespace] {
		b.judge(e)
	}
}

// count adds a pod to the sets that it belongs in, or takes it out, by times.
func (b *Book) count(e *entry, ns labels.Set, times int) {
	for _, sets := range []map[string]*set{b.near[e.key.Namespace], b.far} {
		for name, s := range sets {
			if s.selection.holds(e.pod, ns) {
				b.add(name, s, s.of(e.pod), times)
			}
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

// judge puts a pod of this node under the chains that its policies make for it, or under that of those that none selects:
// so who is no member is not known.
func (b *Book) judge(e *entry) {
	if !e.local {
		return
	}
	for _, d := range directions {
		if b.governing == 0 {
			b.join(e, d, "", nil)
			continue
		}
		var selecting []*compiled
		for _, p := range b.policies[e.key.Namespace] {
			if _, governs := p.rules[d]; governs && p.pods.Matches(e.labels) {
				selecting = append(selecting, p)
			}
		}
		slices.SortFunc(selecting, func(a, b *compiled) int { return compare(a.key, b.key) })
		w := writing{target: e.pod, direction: d}
		if len(selecting) == 0 {
			w.allow(peer{}, nil)
		}
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
