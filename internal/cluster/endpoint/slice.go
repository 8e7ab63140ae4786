package endpoint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/behind"
	"coracle/internal/drain"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// MaxPerSlice is how many endpoints a slice holds at most (upstream's --max-endpoints-per-slice, there 100). A slice is written,
// stored, sent and read whole for each of its endpoints that changes: it is small, so that a change costs little on its way.
const MaxPerSlice = 25

func planSlices(in plan.Input) plan.Plan {
	s := getService(in)
	if s == nil || s.DeletionTimestamp != nil {
		return plan.Plan{} // its slices go with it, by their owner reference
	}
	var mine []*discoveryv1.EndpointSlice
	for _, o := range in.Reader.Indexed(resource.EndpointSlices, object.ByController, string(s.UID)) {
		if sl := o.(*discoveryv1.EndpointSlice); sl.Labels[discoveryv1.LabelManagedBy] == SliceManager && sl.DeletionTimestamp == nil {
			mine = append(mine, sl)
		}
	}
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return plan.Plan{Actions: deletions(mine, "the service is of type ExternalName")}
	case len(s.Spec.Selector) == 0:
		return plan.Plan{}
	}
	d := &slicing{in: in, service: s, labels: labelsFor(s, map[string]string{
		discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: SliceManager,
	})}
	d.all = podsOf(in.Reader, s)
	for _, family := range families(s) {
		d.family(family, d.all, mine)
	}
	for _, sl := range mine {
		if !slices.Contains(families(s), sl.AddressType) {
			d.deletes = append(d.deletes, sl)
		}
	}
	// New endpoints before old ones go, so that no reader is left with none, and that whoever acknowledges the revision at which an
	// old one went knows of the new one.
	slices.SortStableFunc(d.updates, func(a, b update) int { return cmp.Compare(b.gain, a.gain) })
	actions := d.creates
	for _, u := range d.updates {
		actions = append(actions, u.Update)
	}
	return plan.Plan{Actions: append(actions, deletions(d.deletes, "none of its endpoints are left")...)}
}

func deletions(list []*discoveryv1.EndpointSlice, because string) []plan.Action {
	var out []plan.Action
	for _, sl := range list {
		out = append(out, plan.Delete{Object: object.RefOf(sl), Because: because})
	}
	return out
}

func families(s *corev1.Service) []discoveryv1.AddressType {
	var out []discoveryv1.AddressType
	for _, f := range s.Spec.IPFamilies {
		out = append(out, discoveryv1.AddressType(f))
	}
	if len(out) == 0 {
		out = append(out, discoveryv1.AddressTypeIPv4)
	}
	return out
}

// slicing gathers the writes that make a service's slices right.
type slicing struct {
	in      plan.Input
	service *corev1.Service
	all     []*corev1.Pod
	rolling *bool // nil while nobody has asked
	labels  map[string]string
	creates []plan.Action
	updates []update
	deletes []*discoveryv1.EndpointSlice
}

// update is a write of a slice, and how many more endpoints are ready with it than without.
type update struct {
	plan.Update
	gain int
}

// group is the pods that serve the same ports, and the slices that hold such endpoints now.
type group struct {
	ports   []port
	members []member
	slices  []*discoveryv1.EndpointSlice
}

// family divides a family's pods by the ports they serve, since a slice has one set of ports, and
// distributes each part.
func (d *slicing) family(family discoveryv1.AddressType, all []*corev1.Pod, mine []*discoveryv1.EndpointSlice) {
	var groups []*group
	find := func(ports []port) *group {
		for _, g := range groups {
			if slices.EqualFunc(g.ports, ports, port.same) {
				return g
			}
		}
		g := &group{ports: slices.Clone(ports)}
		groups = append(groups, g)
		return g
	}
	var ports []port
	for _, p := range all {
		if address, ok := addressOf(p, family); ok {
			ports = portsOf(d.service, p, ports[:0])
			g := find(ports)
			if g.members == nil {
				g.members = make([]member, 0, len(all)) // of most services all pods serve the same
			}
			g.members = append(g.members, memberOf(d.in.Reader, d.service, p, address))
		}
	}
	if len(groups) == 0 {
		find(nil) // a slice without endpoints says that there are none, rather than not yet
	}
	for _, sl := range mine {
		if sl.AddressType != family {
			continue
		}
		if at := slices.IndexFunc(groups, func(g *group) bool { return slices.EqualFunc(g.ports, fromSlice(sl.Ports), port.same) }); at >= 0 {
			groups[at].slices = append(groups[at].slices, sl)
		} else {
			d.deletes = append(d.deletes, sl)
		}
	}
	for _, g := range groups {
		d.distribute(family, g)
	}
}

func fromSlice(ports []discoveryv1.EndpointPort) []port {
	var out []port
	for _, p := range ports {
		q := port{name: deref(p.Name), appProtocol: p.AppProtocol}
		if p.Protocol != nil {
			q.protocol = *p.Protocol
		}
		if p.Port != nil {
			q.number = *p.Port
		}
		out = append(out, q)
	}
	return out
}

func toSlice(ports []port) []discoveryv1.EndpointPort {
	out := []discoveryv1.EndpointPort{}
	for _, p := range ports {
		out = append(out, discoveryv1.EndpointPort{Name: new(p.name), Protocol: new(p.protocol), Port: new(p.number), AppProtocol: p.appProtocol})
	}
	return out
}

// filling is a slice and what it is to hold.
type filling struct {
	old     *discoveryv1.EndpointSlice
	kept    []place
	changed bool
	// awaited are the pods that the slice names as awaited now.
	awaited []string
}

// place is one endpoint of a slice: a member, and where the slice says so already.
type place struct {
	m   *member
	old *discoveryv1.Endpoint // nil when what it says changes
}

// distribute keeps each endpoint in the slice it is in, fills gaps with new ones, slices that
// change anyway first, and makes new slices for the rest: few slices change when few endpoints do.
func (d *slicing) distribute(family discoveryv1.AddressType, g *group) {
	fill := d.filed(g)
	var fresh []place
	for i := range g.members {
		if m := &g.members[i]; !m.filed {
			fresh = append(fresh, place{m: m})
		}
	}
	slices.SortStableFunc(fill, func(a, b *filling) int {
		switch {
		case a.changed == b.changed:
			return 0
		case a.changed:
			return -1
		}
		return 1
	})
	for _, f := range fill {
		n := min(MaxPerSlice-len(f.kept), len(fresh))
		if n > 0 {
			f.kept, fresh, f.changed = append(f.kept, fresh[:n]...), fresh[n:], true
		}
	}
	needed := len(g.members) == 0 // one slice without endpoints stays
	for _, f := range fill {
		switch {
		case len(f.kept) == 0 && !needed:
			d.deletes = append(d.deletes, f.old)
		case f.changed:
			d.update(f)
		}
		if len(f.kept) == 0 {
			needed = false
		}
	}
	for len(fresh) > 0 || needed {
		n := min(MaxPerSlice, len(fresh))
		d.create(family, g.ports, fresh[:n])
		fresh, needed = fresh[n:], false
	}
}

// filed finds the members of a group in its slices, and marks them.
func (d *slicing) filed(g *group) []*filling {
	if len(g.slices) == 0 {
		return nil
	}
	members := make(map[types.UID]*member, len(g.members))
	for i := range g.members {
		members[g.members[i].pod.UID] = &g.members[i]
	}
	out := make([]*filling, 0, len(g.slices))
	for _, sl := range g.slices {
		f := &filling{old: sl, changed: !maps.Equal(sl.Labels, d.labels) || !owns(d.service, sl), kept: make([]place, 0, len(sl.Endpoints)), awaited: drain.Awaits(sl)}
		for i := range sl.Endpoints {
			e := &sl.Endpoints[i]
			var m *member
			if e.TargetRef != nil {
				m = members[e.TargetRef.UID]
			}
			switch {
			case m == nil || m.filed:
				f.changed = true
				continue
			case m.is(e):
				f.kept = append(f.kept, place{m, e})
			default:
				m.was = e.Conditions.Ready == nil || *e.Conditions.Ready
				f.kept, f.changed = append(f.kept, place{m: m}), true
			}
			m.filed = true
		}
		out = append(out, f)
	}
	return out
}

func owns(s *corev1.Service, sl *discoveryv1.EndpointSlice) bool {
	ref := metav1.GetControllerOfNoCopy(sl)
	return ref != nil && ref.UID == s.UID
}

// update writes a slice anew. What stays as it is is shared with the old one.
func (d *slicing) update(f *filling) {
	next := *f.old
	next.Endpoints, next.Labels = written(f.kept), d.labels
	next.Annotations = d.awaited(next.Annotations, f)
	d.updates = append(d.updates, update{plan.Update{Object: &next, Because: "its endpoints changed"}, ready(&next) - ready(f.old)})
}

// awaited names in the annotations the pods that become ready with a write, if their rollout is to wait for nodes to know them. Those
// named before stay while they may still be waited for: nodes that come to this revision have come to theirs.
func (d *slicing) awaited(annotations map[string]string, f *filling) map[string]string {
	var names []string
	for i := range f.kept {
		p := &f.kept[i]
		switch {
		case !p.m.ready:
		case p.old == nil && !p.m.was && d.rolls(), slices.Contains(f.awaited, p.m.pod.Name) && !d.in.Now.After(drain.KnownBy(p.m.pod)):
			names = append(names, p.m.pod.Name)
		}
	}
	if names == nil && f.awaited == nil {
		return annotations
	}
	out := maps.Clone(annotations)
	delete(out, drain.Awaited)
	if names != nil {
		if out == nil {
			out = map[string]string{}
		}
		out[drain.Awaited] = strings.Join(names, ",")
	}
	return out
}

// rolls says whether pods of the service are being replaced by those of another revision.
func (d *slicing) rolls() bool {
	if d.rolling == nil {
		d.rolling = new(!d.service.Spec.PublishNotReadyAddresses && behind.Rolls(d.all))
	}
	return *d.rolling
}

func ready(s *discoveryv1.EndpointSlice) (n int) {
	for i := range s.Endpoints {
		if r := s.Endpoints[i].Conditions.Ready; r == nil || *r {
			n++
		}
	}
	return n
}

func (d *slicing) create(family discoveryv1.AddressType, ports []port, places []place) {
	d.creates = append(d.creates, plan.Create{
		Object: &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: d.service.Namespace, GenerateName: d.service.Name + "-", Labels: d.labels, OwnerReferences: ownerRef(d.service),
				Annotations: d.awaited(nil, &filling{kept: places}),
			},
			AddressType: family, Endpoints: written(places), Ports: toSlice(ports),
		},
		Because: fmt.Sprintf("%d endpoints have no slice", len(places)),
	})
}

// written makes endpoints of places: an empty list is [] rather than null, which the API refuses.
func written(places []place) []discoveryv1.Endpoint {
	out := make([]discoveryv1.Endpoint, len(places))
	for i, p := range places {
		if p.old != nil {
			out[i] = *p.old
		} else {
			out[i] = p.m.endpoint()
		}
	}
	return out
}
