package endpoint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// MaxPerSlice is how many endpoints a slice holds at most (--max-endpoints-per-slice).
const MaxPerSlice = 100

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
	d := &slicing{r: in.Reader, service: s, labels: labelsFor(s, map[string]string{
		discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: SliceManager,
	})}
	all := backends(in.Reader, s)
	for _, family := range families(s) {
		d.family(family, all, mine)
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
	r       object.Reader
	service *corev1.Service
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

// group is the endpoints that serve the same ports, and the slices that hold such endpoints now.
type group struct {
	ports     []port
	endpoints []discoveryv1.Endpoint
	slices    []*discoveryv1.EndpointSlice
}

// family divides a family's endpoints by the ports they serve, since a slice has one set of
// ports, and distributes each part.
func (d *slicing) family(family discoveryv1.AddressType, all []backend, mine []*discoveryv1.EndpointSlice) {
	var groups []*group
	find := func(ports []port) *group {
		for _, g := range groups {
			if slices.EqualFunc(g.ports, ports, port.same) {
				return g
			}
		}
		g := &group{ports: ports}
		groups = append(groups, g)
		return g
	}
	for _, b := range all {
		if address, ok := addressOf(b.pod, family); ok {
			g := find(b.ports)
			g.endpoints = append(g.endpoints, d.endpoint(b.pod, address))
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

func (d *slicing) endpoint(p *corev1.Pod, address string) discoveryv1.Endpoint {
	serving, terminating := isReady(p), p.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: []string{address},
		Conditions: discoveryv1.EndpointConditions{
			Ready:   new(d.service.Spec.PublishNotReadyAddresses || serving && !terminating),
			Serving: new(serving), Terminating: new(terminating),
		},
		TargetRef: targetRef(p),
	}
	if h := hostnameOf(d.service, p); h != "" {
		e.Hostname = &h
	}
	if p.Spec.NodeName == "" {
		return e
	}
	e.NodeName = new(p.Spec.NodeName)
	if o, ok := d.r.Get(resource.Nodes, "", p.Spec.NodeName); ok {
		if zone := o.GetLabels()[corev1.LabelTopologyZone]; zone != "" {
			e.Zone = &zone
		}
	}
	e.Hints = hints(d.service, &e)
	return e
}

// hints tell proxies which endpoints to prefer (KEP-4444, KEP-3015).
func hints(s *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if s.Spec.TrafficDistribution == nil || !*e.Conditions.Ready {
		return nil
	}
	var h discoveryv1.EndpointHints
	switch *s.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		fallthrough
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
		if e.Zone != nil {
			h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
		}
	}
	if h.ForNodes == nil && h.ForZones == nil {
		return nil
	}
	return &h
}

// distribute keeps each endpoint in the slice it is in, fills gaps with new ones, slices that
// change anyway first, and makes new slices for the rest: few slices change when few endpoints do.
func (d *slicing) distribute(family discoveryv1.AddressType, g *group) {
	wanted := map[types.UID]discoveryv1.Endpoint{}
	for _, e := range g.endpoints {
		wanted[e.TargetRef.UID] = e
	}
	type filling struct {
		old     *discoveryv1.EndpointSlice
		kept    []discoveryv1.Endpoint
		changed bool
	}
	var fill []*filling
	for _, sl := range g.slices {
		f := &filling{old: sl, changed: !maps.Equal(sl.Labels, d.labels) || !owns(d.service, sl)}
		for i := range sl.Endpoints {
			e := &sl.Endpoints[i]
			var uid types.UID
			if e.TargetRef != nil {
				uid = e.TargetRef.UID
			}
			want, ok := wanted[uid]
			if !ok {
				f.changed = true
				continue
			}
			delete(wanted, uid)
			f.changed = f.changed || !apiequality.Semantic.DeepEqual(*e, want)
			f.kept = append(f.kept, want)
		}
		fill = append(fill, f)
	}
	var fresh []discoveryv1.Endpoint
	for _, e := range g.endpoints {
		if _, ok := wanted[e.TargetRef.UID]; ok {
			fresh = append(fresh, e)
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
	needed := len(g.endpoints) == 0 // one slice without endpoints stays
	for _, f := range fill {
		switch {
		case len(f.kept) == 0 && !needed:
			d.deletes = append(d.deletes, f.old)
		case f.changed:
			d.update(f.old, f.kept)
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

func owns(s *corev1.Service, sl *discoveryv1.EndpointSlice) bool {
	ref := metav1.GetControllerOfNoCopy(sl)
	return ref != nil && ref.UID == s.UID
}

func (d *slicing) update(old *discoveryv1.EndpointSlice, endpoints []discoveryv1.Endpoint) {
	next := old.DeepCopy()
	next.Endpoints, next.Labels = orEmpty(endpoints), d.labels
	d.updates = append(d.updates, update{plan.Update{Object: next, Because: "its endpoints changed"}, ready(next) - ready(old)})
}

func ready(s *discoveryv1.EndpointSlice) (n int) {
	for i := range s.Endpoints {
		if r := s.Endpoints[i].Conditions.Ready; r == nil || *r {
			n++
		}
	}
	return n
}

func (d *slicing) create(family discoveryv1.AddressType, ports []port, endpoints []discoveryv1.Endpoint) {
	d.creates = append(d.creates, plan.Create{
		Object: &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: d.service.Namespace, GenerateName: d.service.Name + "-", Labels: d.labels, OwnerReferences: ownerRef(d.service),
			},
			AddressType: family, Endpoints: orEmpty(endpoints), Ports: toSlice(ports),
		},
		Because: fmt.Sprintf("%d endpoints have no slice", len(endpoints)),
	})
}

// orEmpty makes an empty list [] rather than null, which the API refuses.
func orEmpty(endpoints []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	if endpoints == nil {
		return []discoveryv1.Endpoint{}
	}
	return slices.Clone(endpoints)
}
