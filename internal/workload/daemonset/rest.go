package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// rest are the nodes that a decision does not look at one by one. Each shall have a pod, is ready, is not held, and has
// one pod alone, which is available; or it shall have none, and has none.
type rest struct {
	atlas *atlas
	// fresh and stale are how many of the first run the present revision, and another.
	fresh, stale int
	// old are the bands of the stale ones, looked those of their nodes that are looked at.
	old    []*band
	looked map[string]bool
	// last is when a pod of theirs became ready, or was created, last.
	last time.Time
}

// atlas returns the set's atlas if the decision can be made by it: nothing is to be adopted or released, and no
// annotation holds nodes back, which all are asked for.
func (d *decision) atlas(selector labels.Selector) *atlas {
	for _, a := range []string{Paused, CanarySelector, Partition} {
		if _, held := d.set.Annotations[a]; held {
			return nil
		}
	}
	kept, there := object.Digested(d.in.Reader, &digest, d.set)
	if !there {
		return nil
	}
	a := kept.(*atlas)
	if len(a.astray) > 0 || claim.AnyOrphan(d.in.Reader, resource.Pods, claim.Owner{Object: d.set, Selector: selector}) {
		return nil
	}
	return a
}

// read is survey by the atlas.
func (d *decision) read(a *atlas) {
	d.nodes, d.desired = a.nodes, a.desired
	d.rest = rest{atlas: a, looked: map[string]bool{}}
	look := slices.Collect(maps.Keys(a.odd))
	for _, b := range a.bands {
		young := d.young(b)
		if n := b.nodes.Len() - len(young); d.present(b.labels) {
			d.rest.fresh += n
		} else if n > 0 {
			d.rest.stale += n
			d.rest.old = append(d.rest.old, b)
		}
		for _, name := range young {
			d.rest.looked[name] = true
		}
		look = append(look, young...)
		for last := range b.since.Back() {
			if !d.rest.looked[last.node] {
				d.rest.last = latest(d.rest.last, last.at)
				break
			}
		}
	}
	slices.Sort(look)
	for _, name := range look {
		d.lookAt(a.places[name])
	}
	slices.SortFunc(d.strays, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
}

func latest(t time.Time, nanoseconds int64) time.Time {
	if at := time.Unix(0, nanoseconds).UTC(); at.After(t) {
		return at
	}
	return t
}

// young are the nodes of a band whose pods may not count as available yet: they are not ready for long enough, or not
// every node may know that they are.
func (d *decision) young(b *band) (names []string) {
	wait := max(0, time.Duration(d.set.Spec.MinReadySeconds)*time.Second)
	if d.led.Concerns(d.set.Namespace, b.labels) {
		wait = max(wait, b.bound)
	}
	grown := d.in.Now.Add(-wait).UnixNano()
	for s := range b.since.All(func(s stamp) bool { return s.at <= grown }) {
		names = append(names, s.node)
	}
	return names
}

// lookAt makes a place a spot, or its pods strays.
func (d *decision) lookAt(p *place) {
	pods := make([]*corev1.Pod, 0, len(p.pods))
	for _, name := range p.pods {
		if pod := podNamed(d.in.Reader, d.set.Namespace, name); pod != nil {
			pods = append(pods, pod)
		}
	}
	node := nodeNamed(d.in.Reader, p.name)
	if node == nil {
		d.strays = append(d.strays, pods...)
		return
	}
	s := d.spotOf(node)
	if len(pods) > 0 {
		slices.SortFunc(pods, better)
		s.pods, s.fresh = pods, d.present(pods[0].Labels)
	}
	d.spots = append(d.spots, s)
}

// foremost returns the first n by name of some spots and of those in the rest that run an old revision.
func (d *decision) foremost(n int, some []*spot) []*spot {
	if n == 0 || len(d.rest.old) == 0 {
		return some[:n]
	}
	var names []string
	for _, b := range d.rest.old {
		taken := 0
		for name := range b.nodes.All(nil) {
			if taken == n {
				break
			}
			if !d.rest.looked[name] {
				names, taken = append(names, name), taken+1
			}
		}
	}
	slices.Sort(names)
	out := make([]*spot, 0, n)
	for len(out) < n {
		if len(names) == 0 || len(some) > 0 && some[0].node.Name < names[0] {
			out, some = append(out, some[0]), some[1:]
			continue
		}
		s := d.spotOf(nodeNamed(d.in.Reader, names[0]))
		pod := podNamed(d.in.Reader, d.set.Namespace, d.rest.atlas.places[names[0]].pods[0])
		s.pods, s.fresh = []*corev1.Pod{pod}, false
		out, names = append(out, &s), names[1:]
	}
	return out
}

// absent tells of the nodes that shall have no pod: the first few of each cause, and how many more there are.
func (r *rest) absent(d *decision, add func(reason, text, hint string, node *corev1.Node) *absence) {
	if r.atlas == nil {
		return
	}
	for _, nodes := range r.atlas.barred {
		told, of := 0, (*absence)(nil)
		for name := range nodes.All(nil) {
			if told == few {
				break
			}
			s := d.spotOf(nodeNamed(d.in.Reader, name))
			d.absence(&s, func(reason, text, hint string, node *corev1.Node) *absence {
				of = add(reason, text, hint, node)
				return of
			})
			told++
		}
		of.more += nodes.Len() - told
	}
}
