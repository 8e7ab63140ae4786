package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/drain"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/ordered"
	"coracle/internal/workload/placement"
)

// digest keeps of each DaemonSet which nodes a decision has to look at: see atlas.
var digest = object.Digest{For: resource.DaemonSets, Name: "daemonset.atlas",
	Follows: []object.Follow{
		{Resource: resource.Pods, Keys: ownersOf},
		{Resource: resource.Nodes, Keys: func(_ object.Reader, before, after object.Object) ([]object.Key, bool) {
			was, _ := before.(*corev1.Node)
			is, _ := after.(*corev1.Node)
			return nil, was == nil || is == nil || !sameNode(was, is)
		}},
	},
	New: func(r object.Reader, of object.Object) object.Account { return draw(r, of.(*appsv1.DaemonSet)) },
}

func ownersOf(_ object.Reader, before, after object.Object) (keys []object.Key, all bool) {
	for _, o := range []object.Object{before, after} {
		if o == nil {
			continue
		}
		ref := claim.Controller(o)
		if ref != nil && ref.Kind == resource.DaemonSets.Kind {
			keys = append(keys, object.Key{Namespace: o.GetNamespace(), Name: ref.Name})
		}
	}
	return keys, false
}

// atlas knows of each node what a DaemonSet makes of it. Nodes where all is well, for one pod alone, are counted in
// bands; those that shall have none and have none are counted by cause; all others are odd, and a decision looks at
// each.
type atlas struct {
	set      *appsv1.DaemonSet
	selector labels.Selector
	rules    *placement.Rules
	pods     map[string]string // the node of each pod of the set, "" for none
	places   map[string]*place
	// nodes are all there are, desired those that shall have a pod.
	nodes, desired int
	odd            map[string]*place
	// astray are pods that the set has to release.
	astray map[string]bool
	bands  []*band
	barred map[bar]*ordered.Set[string]
}

// place is a node, or the name of one that pods are on or pinned to.
type place struct {
	name         string
	node, wanted bool
	pods         []string
	// band and since say where the node is counted; bar, if it is barred. It is odd if both are nil.
	band  *band
	since int64
	bar   *bar
}

// bar is why a node shall have no pod.
type bar struct {
	cause placement.Cause
	taint string
}

// band are nodes each with one ready pod, all pods with the same labels and as soon known.
type band struct {
	labels map[string]string
	bound  time.Duration
	since  *ordered.Set[stamp]
	nodes  *ordered.Set[string]
}

// stamp is since when the pod of a node is ready, in seconds.
type stamp struct {
	at   int64
	node string
}

func draw(r object.Reader, set *appsv1.DaemonSet) *atlas {
	spec := &set.Spec.Template.Spec
	a := &atlas{set: set, rules: placement.Compile(spec, tolerations(spec)...), pods: map[string]string{}, places: map[string]*place{},
		odd: map[string]*place{}, astray: map[string]bool{}, barred: map[bar]*ordered.Set[string]{}}
	selector, err := Selector(set)
	if err != nil {
		selector = labels.Nothing()
	}
	a.selector = selector
	for _, o := range r.Indexed(resource.Pods, object.ByController, string(set.UID)) {
		if o.GetNamespace() == set.Namespace {
			a.file(o.GetName(), o.(*corev1.Pod))
		}
	}
	for _, o := range r.List(resource.Nodes, "") {
		a.at(o.GetName())
	}
	for _, p := range a.places {
		a.judge(r, p)
	}
	return a
}

// Fits implements object.Account.
func (a *atlas) Fits(of object.Object) bool {
	set := of.(*appsv1.DaemonSet)
	if set == a.set {
		return true
	}
	was, is := &a.set.Spec.Template.Spec, &set.Spec.Template.Spec
	if set.UID != a.set.UID || was.NodeName != is.NodeName || was.HostNetwork != is.HostNetwork || !maps.Equal(was.NodeSelector, is.NodeSelector) ||
		!equality.Semantic.DeepEqual(was.Affinity, is.Affinity) || !equality.Semantic.DeepEqual(was.Tolerations, is.Tolerations) ||
		!equality.Semantic.DeepEqual(a.set.Spec.Selector, set.Spec.Selector) {
		return false
	}
	a.set = set
	return true
}

// Len implements object.Account.
func (a *atlas) Len() int { return len(a.pods) + len(a.places) }

// Look implements object.Account.
func (a *atlas) Look(r object.Reader, res resource.Resource, k object.Key) {
	if res == resource.Nodes {
		a.judge(r, a.at(k.Name))
		return
	}
	o, there := r.Get(resource.Pods, k.Namespace, k.Name)
	pod, _ := o.(*corev1.Pod)
	if there = there && claim.ControlledBy(pod, a.set.UID); !there {
		pod = nil
	}
	for _, p := range a.file(k.Name, pod) {
		a.judge(r, p)
	}
}

// at is the place of a name.
func (a *atlas) at(name string) *place {
	p := a.places[name]
	if p == nil {
		p = &place{name: name}
		a.places[name], a.odd[name] = p, p
	}
	return p
}

// file puts a pod where it is; nil where it is not the set's any more. It returns the places to judge anew.
func (a *atlas) file(name string, pod *corev1.Pod) (changed []*place) {
	if was, had := a.pods[name]; had {
		delete(a.pods, name)
		if was != "" {
			p := a.places[was]
			p.pods = slices.DeleteFunc(p.pods, func(n string) bool { return n == name })
			changed = append(changed, p)
		}
	}
	delete(a.astray, name)
	if pod == nil || gone(pod) {
		return changed
	}
	if !a.selector.Matches(labels.Set(pod.Labels)) {
		a.astray[name] = true
	}
	on := nodeOf(pod)
	a.pods[name] = on
	if on != "" {
		p := a.at(on)
		p.pods = append(p.pods, name)
		if !slices.Contains(changed, p) {
			changed = append(changed, p)
		}
	}
	return changed
}

// gone says of a pod that it has ended and only waits for its finalizers: it is in nobody's way.
func gone(pod *corev1.Pod) bool { return podstate.Ended(pod) && pod.DeletionTimestamp != nil }

// judge counts a place where it belongs.
func (a *atlas) judge(r object.Reader, p *place) {
	a.uncount(p)
	node := nodeNamed(r, p.name)
	if node == nil && len(p.pods) == 0 {
		delete(a.places, p.name)
		return
	}
	if p.node = node != nil; !p.node {
		a.odd[p.name] = p
		return
	}
	a.nodes++
	verdict := a.rules.Ask(node)
	if p.wanted = verdict.Cause == placement.Fits; p.wanted {
		a.desired++
	}
	switch {
	case !p.wanted && len(p.pods) == 0:
		p.bar = &bar{verdict.Cause, placement.TaintText(verdict.Taint)}
		if a.barred[*p.bar] == nil {
			a.barred[*p.bar] = ordered.New(cmp.Compare[string])
		}
		a.barred[*p.bar].Add(p.name)
	case p.wanted && len(p.pods) == 1 && nodestate.Ready(node):
		a.settle(r, p)
	default:
		a.odd[p.name] = p
	}
}

// settle counts a place in its band if all is well with its only pod. One that is gone or elsewhere by now is judged
// again when the account looks at the pod.
func (a *atlas) settle(r object.Reader, p *place) {
	pod := podNamed(r, a.set.Namespace, p.pods[0])
	if pod == nil {
		a.odd[p.name] = p
		return
	}
	since, ready := podstate.ReadySince(pod)
	if !ready || since.IsZero() || !podstate.Active(pod) || pod.Spec.NodeName == "" || pod.CreationTimestamp.After(since) {
		a.odd[p.name] = p
		return
	}
	bound, _ := drain.Bound(pod)
	p.band, p.since = a.bandOf(pod.Labels, bound), since.UnixNano()
	p.band.since.Add(stamp{p.since, p.name})
	p.band.nodes.Add(p.name)
}

func (a *atlas) bandOf(labels map[string]string, bound time.Duration) *band {
	for _, b := range a.bands {
		if b.bound == bound && maps.Equal(b.labels, labels) {
			return b
		}
	}
	b := &band{labels: labels, bound: bound, nodes: ordered.New(cmp.Compare[string]), since: ordered.New(func(x, y stamp) int {
		return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.node, y.node))
	})}
	a.bands = append(a.bands, b)
	return b
}

// uncount takes a place out of where it was counted.
func (a *atlas) uncount(p *place) {
	if p.node {
		a.nodes--
	}
	if p.wanted {
		a.desired--
	}
	p.node, p.wanted = false, false
	switch b := p.band; {
	case b != nil:
		b.since.Remove(stamp{p.since, p.name})
		if b.nodes.Remove(p.name); b.nodes.Len() == 0 {
			a.bands = slices.DeleteFunc(a.bands, func(o *band) bool { return o == b })
		}
	case p.bar != nil:
		if a.barred[*p.bar].Remove(p.name); a.barred[*p.bar].Len() == 0 {
			delete(a.barred, *p.bar)
		}
	default:
		delete(a.odd, p.name)
	}
	p.band, p.bar = nil, nil
}

func nodeNamed(r object.Reader, name string) *corev1.Node {
	o, _ := r.Get(resource.Nodes, "", name)
	node, _ := o.(*corev1.Node)
	return node
}

func podNamed(r object.Reader, namespace, name string) *corev1.Pod {
	o, _ := r.Get(resource.Pods, namespace, name)
	pod, _ := o.(*corev1.Pod)
	return pod
}
