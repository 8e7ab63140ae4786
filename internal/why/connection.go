package why

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"coracle/internal/network/policy"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// connectionKind is the kind of a connection in a report. It is no kind of the API.
const connectionKind = "Connection"

// Target is what a pod wants to connect to: a pod, a service, or an address, at a port.
type Target struct {
	// Kind is Pod, Service, or empty for an address.
	Kind            string
	Namespace, Name string
	Addr            netip.Addr
	// Port is a number, or the name that a pod or a service has for one.
	Port     string
	Protocol corev1.Protocol
}

func (t Target) String() string {
	at := t.Addr.String()
	if t.Kind != "" {
		at = t.Kind + " " + t.Namespace + "/" + t.Name
	}
	return fmt.Sprintf("%s:%s/%s", at, t.Port, t.Protocol)
}

// ParseTarget reads pod/NAME:PORT, svc/NAME:PORT, SERVICE:PORT or ADDRESS:PORT; NAME may be NAMESPACE/NAME, and is in the
// namespace given where it is not.
func ParseTarget(text, namespace, protocol string) (Target, error) {
	t := Target{Protocol: corev1.Protocol(strings.ToUpper(cmp.Or(protocol, "TCP"))), Namespace: namespace}
	if !slices.Contains([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}, t.Protocol) {
		return t, fmt.Errorf("protocol %q: it is TCP, UDP or SCTP", protocol)
	}
	at := strings.LastIndexByte(text, ':')
	if at <= 0 || at == len(text)-1 {
		return t, fmt.Errorf("%q: give a port, as in pod/web-0:8080, svc/web:80 or 10.244.0.7:8080", text)
	}
	whom, port := text[:at], text[at+1:]
	t.Port = port
	if n, err := strconv.Atoi(port); err == nil && (n < 1 || n > 65535) {
		return t, fmt.Errorf("%q: a port is a number from 1 to 65535, or a name", text)
	}
	if a, err := netip.ParseAddr(strings.Trim(whom, "[]")); err == nil {
		t.Addr, t.Namespace = a.Unmap(), ""
		return t, nil
	}
	parts := strings.Split(whom, "/")
	kinds := map[string]string{"pod": "Pod", "po": "Pod", "pods": "Pod", "svc": "Service", "service": "Service", "services": "Service"}
	kind, known := kinds[strings.ToLower(parts[0])]
	switch {
	case len(parts) == 1:
		t.Kind, t.Name = "Service", parts[0]
	case known && len(parts) == 2:
		t.Kind, t.Name = kind, parts[1]
	case known && len(parts) == 3:
		t.Kind, t.Namespace, t.Name = kind, parts[1], parts[2]
	}
	if t.Name == "" || t.Namespace == "" {
		return t, fmt.Errorf("%q: name a pod (pod/NAME:PORT), a service (svc/NAME:PORT) or an address, NAME with its namespace as NAMESPACE/NAME where it is another", text)
	}
	return t, nil
}

// Connection answers whether network policies let a pod connect to a target, by which rule of which policy or by none, and to
// which endpoint a service would lead it. It returns false when there is no such pod.
func Connection(r object.Reader, said Said, from object.Key, to Target, now time.Time) (*Report, bool) {
	obj, ok := r.Get(resource.Pods, from.Namespace, from.Name)
	if !ok {
		return nil, false
	}
	w := &walk{r: r, said: said, now: now, seen: map[spot]*Entry{}, stuck: map[spot]bool{}}
	c := &connecting{walk: w, from: obj.(*corev1.Pod), to: to}
	c.e = &Entry{Subject: Subject{Kind: connectionKind, Namespace: from.Namespace, Name: from.Name + " to " + to.String()}, State: plan.Steady}
	c.explain()
	report := &Report{APIVersion: Version, Kind: "Why", At: now.UTC().Truncate(time.Second), Object: c.e}
	if c.e.State != plan.Steady {
		report.Causes = causes(c.e)
	}
	return report, true
}

// connecting is a connection being explained.
type connecting struct {
	*walk
	from *corev1.Pod
	to   Target
	e    *Entry
	// snapshot is what policies speak of, read once.
	snapshot policy.Snapshot
}

// arrival is where a connection may arrive.
type arrival struct {
	policy.End
	port uint16
}

func (p *arrival) String() string {
	text := fmt.Sprintf("%s:%d", p.Addr, p.port)
	if p.Pod != nil {
		text = "Pod " + p.Pod.Namespace + "/" + p.Pod.Name + " at " + text
	}
	return text
}

func (c *connecting) stuck(reason, message, hint string, res resource.Resource, key object.Key) {
	c.e.State = plan.Stuck
	c.e.Waits = append(c.e.Waits, c.on(res, key, Wait{Reason: reason, Message: message, Hint: hint}))
}

func (c *connecting) explain() {
	if !governable(c.from) && !c.from.Spec.HostNetwork {
		key := object.KeyOf(c.from)
		c.stuck("NoAddress", "the pod has no address yet, or not any more", "wait until it runs", resource.Pods, key)
		return
	}
	places, by := c.places()
	if len(places) == 0 {
		return // it is said why
	}
	c.snapshot.Namespaces = map[string]map[string]string{}
	for _, o := range c.r.List(resource.NetworkPolicies, "") {
		c.snapshot.Policies = append(c.snapshot.Policies, o.(*networkingv1.NetworkPolicy))
	}
	for _, o := range c.r.List(resource.Namespaces, "") {
		c.snapshot.Namespaces[o.GetName()] = o.GetLabels()
	}
	allowed := 0
	var lines []string
	for i := range places {
		ok, text := c.judge(&places[i])
		if ok {
			allowed++
		}
		if i < few && (ok || len(lines) == 0) {
			lines = append(lines, text)
		}
	}
	c.e.Summary = by + strings.Join(lines, "; ")
	switch {
	case allowed == len(places):
	case allowed > 0:
		c.e.State = plan.Waiting
		c.e.Summary = fmt.Sprintf("%d of %d endpoints are allowed: %s", allowed, len(places), c.e.Summary)
	default:
		c.e.State = plan.Stuck
	}
}

func governable(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && len(p.Status.PodIPs) > 0 && !podstate.Ended(p)
}

// judge says what the policies of both ends say of a connection to a arrival.
func (c *connecting) judge(at *arrival) (allowed bool, text string) {
	from := policy.End{Pod: c.from}
	for _, ip := range c.from.Status.PodIPs { // by which of its addresses it comes, the other's family says
		if a, err := netip.ParseAddr(ip.IP); err == nil && (!from.Addr.IsValid() || a.Is4() == at.Addr.Is4()) {
			from.Addr = a
		}
	}
	to := at.String()
	if c.from.Spec.HostNetwork {
		return true, "allowed to " + to + ": the pod is in its node's network, where no policy governs it, and nodes reach their pods"
	}
	v := policy.Judge(c.snapshot, from, at.End, c.to.Protocol, at.port)
	var sides []string
	for _, s := range v.Sides {
		sides = append(sides, c.side(&s, at))
	}
	verdict := "denied to "
	if v.Allowed {
		verdict = "allowed to "
	}
	return v.Allowed, verdict + to + ": " + cmp.Or(strings.Join(sides, ", "), "no policy governs it")
}

func (c *connecting) side(s *policy.Side, at *arrival) string {
	direction := strings.ToLower(string(s.Direction))
	switch {
	case len(s.Isolates) == 0:
		return direction + " of Pod " + s.Pod.String() + " is governed by no policy"
	case s.Allowed:
		return fmt.Sprintf("%s by spec.%s[%d] of NetworkPolicy %s", direction, direction, s.Rule, s.By)
	}
	var names []string
	for _, key := range s.Isolates {
		names = append(names, key.Name)
	}
	governing := strings.Join(names[:min(few, len(names))], ", ")
	if more := len(names) - few; more > 0 {
		governing += fmt.Sprintf(" and %d more", more)
	}
	message := fmt.Sprintf("%s of Pod %s is governed by NetworkPolicy %s, and no rule allows %s port %d with %s",
		direction, s.Pod, governing, c.to.Protocol, at.port, c.farOf(s, at))
	first := subject(resource.NetworkPolicies, object.Key(s.Isolates[0]))
	c.e.Waits = append(c.e.Waits, Wait{Reason: "DeniedByNetworkPolicy", Message: message, Hint: c.remedy(s, at), On: &first})
	return direction + " by no rule"
}

// farOf names the end that a side does not govern.
func (c *connecting) farOf(s *policy.Side, at *arrival) string {
	if s.Direction == policy.Ingress {
		return "Pod " + object.KeyOf(c.from).String()
	}
	if at.Pod != nil {
		return "Pod " + at.Pod.Namespace + "/" + at.Pod.Name
	}
	return at.Addr.String()
}

// remedy is a rule that would allow it.
func (c *connecting) remedy(s *policy.Side, at *arrival) string {
	field, far := "from", c.from
	if s.Direction == policy.Egress {
		field, far = "to", at.Pod
	}
	peer := "{ipBlock: {cidr: " + netip.PrefixFrom(at.Addr, at.Addr.BitLen()).String() + "}}"
	if far != nil {
		peer = "podSelector: {matchLabels: {" + pairs(far.Labels) + "}}"
		if far.Namespace != s.Pod.Namespace {
			peer = "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: " + far.Namespace + "}}, " + peer
		}
		peer = "{" + peer + "}"
	}
	return fmt.Sprintf("if it is to be allowed, add to a NetworkPolicy of namespace %s that selects the pod: spec.%s: [{%s: [%s], ports: [{protocol: %s, port: %d}]}]",
		s.Pod.Namespace, strings.ToLower(string(s.Direction)), field, peer, c.to.Protocol, at.port)
}

func pairs(labels map[string]string) string {
	var out []string
	for k, v := range labels {
		out = append(out, k+": "+v)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// places finds where a connection would arrive, and what leads it there.
func (c *connecting) places() (all []arrival, by string) {
	switch c.to.Kind {
	case "Pod":
		return c.ofPod(), ""
	case "Service":
		return c.ofService(object.Key{Namespace: c.to.Namespace, Name: c.to.Name}, c.to.Port)
	}
	port, err := strconv.ParseUint(c.to.Port, 10, 16)
	if err != nil {
		c.e.State = plan.Stuck
		c.e.Waits = append(c.e.Waits, Wait{Reason: "NoSuchPort", Message: "an address has no named ports", Hint: "give the port's number"})
		return nil, ""
	}
	for _, o := range c.r.List(resource.Services, "") {
		if s := o.(*corev1.Service); slices.Contains(s.Spec.ClusterIPs, c.to.Addr.String()) || s.Spec.ClusterIP == c.to.Addr.String() {
			return c.ofService(object.KeyOf(s), c.to.Port)
		}
	}
	return []arrival{c.at(c.to.Addr, uint16(port))}, ""
}

// at is an address, with the pod that has it, or the name server of the pod's node.
func (c *connecting) at(a netip.Addr, port uint16) arrival {
	p := arrival{End: policy.End{Addr: a}, port: port}
	for _, o := range c.r.List(resource.Pods, "") {
		pod := o.(*corev1.Pod)
		if governable(pod) && slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == a.String() }) {
			p.Pod = pod
			return p
		}
	}
	if o, ok := c.r.Get(resource.Nodes, "", c.from.Spec.NodeName); ok {
		n := o.(*corev1.Node)
		for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
			if r, err := netip.ParsePrefix(text); err == nil && a.Is4() && r.Masked().Addr().Next() == a {
				p.Pod = policy.NameServer(a)
			}
		}
	}
	return p
}

func (c *connecting) ofPod() []arrival {
	key := object.Key{Namespace: c.to.Namespace, Name: c.to.Name}
	o, ok := c.r.Get(resource.Pods, key.Namespace, key.Name)
	if !ok {
		c.stuck(notFound, "there is no such pod", "correct the name", resource.Pods, key)
		return nil
	}
	pod := o.(*corev1.Pod)
	if len(pod.Status.PodIPs) == 0 {
		c.stuck("NoAddress", "the pod has no address yet", "wait until it runs", resource.Pods, key)
		return nil
	}
	a, err := netip.ParseAddr(pod.Status.PodIPs[0].IP)
	if err != nil {
		c.stuck("NoAddress", "its address cannot be read: "+err.Error(), "", resource.Pods, key)
		return nil
	}
	port, ok := c.portOf(pod)
	if !ok {
		c.stuck("NoSuchPort", "the pod calls no "+string(c.to.Protocol)+" port "+c.to.Port, "give the port's number, or a name that a container gives one", resource.Pods, key)
		return nil
	}
	end := policy.End{Addr: a}
	if governable(pod) {
		end.Pod = pod
	}
	return []arrival{{end, port}}
}

func (c *connecting) portOf(pod *corev1.Pod) (uint16, bool) {
	if n, err := strconv.ParseUint(c.to.Port, 10, 16); err == nil {
		return uint16(n), true
	}
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.Name == c.to.Port && cmp.Or(p.Protocol, corev1.ProtocolTCP) == c.to.Protocol {
				return uint16(p.ContainerPort), true
			}
		}
	}
	return 0, false
}

// ofService are the ready endpoints behind a port of a service.
func (c *connecting) ofService(key object.Key, port string) (all []arrival, by string) {
	o, ok := c.r.Get(resource.Services, key.Namespace, key.Name)
	if !ok {
		c.e.State, c.e.Waits = plan.Stuck, []Wait{c.noService(key)}
		return nil, ""
	}
	s := o.(*corev1.Service)
	at := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
		return cmp.Or(p.Protocol, corev1.ProtocolTCP) == c.to.Protocol && (p.Name == port || strconv.Itoa(int(p.Port)) == port)
	})
	if at < 0 {
		var have []string
		for _, p := range s.Spec.Ports {
			have = append(have, fmt.Sprintf("%d/%s", p.Port, cmp.Or(p.Protocol, corev1.ProtocolTCP)))
		}
		c.stuck("NoSuchPort", "the service has no "+string(c.to.Protocol)+" port "+port+": nodes refuse it", "it has "+strings.Join(have, ", "), resource.Services, key)
		return nil, ""
	}
	for _, o := range c.r.List(resource.EndpointSlices, key.Namespace) {
		slice := o.(*discoveryv1.EndpointSlice)
		if slice.Labels[discoveryv1.LabelServiceName] != key.Name || slice.AddressType != c.familyOf(s) {
			continue
		}
		all = append(all, c.ofSlice(slice, &s.Spec.Ports[at])...)
	}
	if len(all) == 0 {
		c.stuck("NoReadyEndpoint", "no endpoint of the service is ready: nodes refuse the connection", "wait for its pods", resource.Services, key)
		return nil, ""
	}
	return all, "led by Service " + key.String() + " to one of its endpoints; "
}

// familyOf is the family in which a service leads on: that of the address that was asked about, or else its first.
func (c *connecting) familyOf(s *corev1.Service) discoveryv1.AddressType {
	switch {
	case c.to.Addr.Is6(), !c.to.Addr.IsValid() && len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] == corev1.IPv6Protocol:
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

func (c *connecting) ofSlice(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) (all []arrival) {
	for _, p := range slice.Ports {
		if p.Port == nil || p.Name == nil && port.Name != "" || p.Name != nil && *p.Name != port.Name ||
			p.Protocol != nil && *p.Protocol != c.to.Protocol {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
				continue
			}
			if a, err := netip.ParseAddr(e.Addresses[0]); err == nil {
				all = append(all, c.at(a, uint16(*p.Port)))
			}
		}
	}
	return all
}
