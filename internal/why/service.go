package why

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/behind"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/diagnose"
)

// lookAtService explains a service that leads nowhere, and notes what it leads to less than one might think. Who has a port
// that its load balancer wants is the word of that controller.
func (w *walk) lookAtService(s *corev1.Service) (plan.State, []plan.Wait) {
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return plan.Steady, []plan.Wait{{
			Reason: "ExternalName", Message: fmt.Sprintf("it is a name for %s and nothing else: it has no address, and its ports lead nowhere", s.Spec.ExternalName),
		}}
	case len(s.Spec.Selector) == 0:
		return w.lookAtSlices(s)
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	var ready []*corev1.Pod
	var waits []plan.Wait
	for _, o := range w.r.List(resource.Pods, s.Namespace) {
		pod, ok := o.(*corev1.Pod)
		if !ok || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		switch early := s.Spec.PublishNotReadyAddresses && pod.Status.PodIP != "" && !podstate.Ended(pod); {
		case early || podstate.Ready(pod) && pod.DeletionTimestamp == nil:
			ready = append(ready, pod)
		case len(waits) < few:
			waits = append(waits, diagnose.Pod(w.r, pod, 0, w.now).Wait)
		}
	}
	switch {
	case len(ready) > 0:
		return w.lookAtPorts(s, ready)
	case len(waits) > 0:
		return plan.Waiting, waits
	}
	return plan.Stuck, []plan.Wait{w.noPods(s)}
}

// noPods explains a selector that no pod has the labels of, by the pod that comes nearest.
func (w *walk) noPods(s *corev1.Service) plan.Wait {
	wait := plan.Wait{
		Reason: "NoPods", Message: "no pod has the labels of its selector: " + labels.FormatLabels(s.Spec.Selector),
		Hint: "correct the service's selector or the pods' labels, or start the pods",
	}
	var near *corev1.Pod
	best := 0
	for _, o := range w.r.List(resource.Pods, s.Namespace) {
		pod, ok := o.(*corev1.Pod)
		if !ok || podstate.Ended(pod) || pod.DeletionTimestamp != nil {
			continue
		}
		if n := nearness(s.Spec.Selector, pod.Labels); n > best {
			near, best = pod, n
		}
	}
	if near != nil {
		wait.Message += "; the nearest is pod " + near.Name + ", " + differences(s.Spec.Selector, near.Labels)
		return wait
	}
	for _, o := range w.r.List(resource.Pods, "") {
		if pod, ok := o.(*corev1.Pod); ok && pod.Namespace != s.Namespace && behind.Selects(s, pod) {
			wait.Message += "; pod " + pod.Name + " has, but in namespace " + pod.Namespace
			wait.Hint = "make the service in namespace " + pod.Namespace + ": it selects pods of its own namespace alone"
			break
		}
	}
	return wait
}

// nearness counts what labels have of a selector: a label that agrees for much, one that differs for little.
func nearness(selector, of map[string]string) (n int) {
	for k, v := range selector {
		if have, ok := of[k]; ok && have == v {
			n += 2 * len(selector)
		} else if ok {
			n++
		}
	}
	return n
}

// differences says which labels a pod lacks, or has otherwise.
func differences(selector, of map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(selector)) {
		switch have, ok := of[k]; {
		case !ok:
			out = append(out, fmt.Sprintf("which has no label %s", k))
		case have != selector[k]:
			out = append(out, fmt.Sprintf("whose label %s is %q and not %q", k, have, selector[k]))
		}
	}
	return strings.Join(out, " and ")
}

// lookAtSlices explains a service that others write the endpoints of. The API server needs none for its own.
func (w *walk) lookAtSlices(s *corev1.Service) (plan.State, []plan.Wait) {
	if s.Namespace == "default" && s.Name == "kubernetes" {
		return plan.Steady, nil
	}
	all := behind.Slices(w.r, object.KeyOf(s))
	if len(all) == 0 {
		return plan.Stuck, []plan.Wait{{
			Reason: "NoSelector", Message: "it has no selector, and no EndpointSlice names it",
			Hint: "give it a selector, or write an EndpointSlice with the label " + discoveryv1.LabelServiceName + ": " + s.Name,
		}}
	}
	var some bool
	for _, sl := range all {
		some = some || slices.ContainsFunc(sl.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready })
	}
	if !some {
		return plan.Stuck, []plan.Wait{{
			Reason: "NoReadyEndpoint", Message: "no endpoint in its EndpointSlices is ready: " + sliceNames(all),
			Hint: "whoever writes these EndpointSlices must add an endpoint whose condition ready is true",
		}}
	}
	var waits []plan.Wait
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if !slices.ContainsFunc(all, func(sl *discoveryv1.EndpointSlice) bool { return hasPort(sl, p) }) {
			waits = append(waits, plan.Wait{
				Reason: "PortNotInSlices", Message: fmt.Sprintf("no EndpointSlice has a port named %q (%s): %s", p.Name, protocolName(p.Protocol), sliceNames(all)),
				Hint: "the ports of EndpointSlices have the names of the service's ports: correct one of them",
			})
		}
	}
	if len(waits) > 0 {
		return plan.Stuck, waits
	}
	return plan.Steady, nil
}

func sliceNames(all []*discoveryv1.EndpointSlice) string {
	var out []string
	for _, sl := range all[:min(len(all), few)] {
		out = append(out, sl.Name)
	}
	return strings.Join(out, ", ")
}

func hasPort(sl *discoveryv1.EndpointSlice, p *corev1.ServicePort) bool {
	return slices.ContainsFunc(sl.Ports, func(q discoveryv1.EndpointPort) bool {
		name, protocol := "", corev1.ProtocolTCP
		if q.Name != nil {
			name = *q.Name
		}
		if q.Protocol != nil {
			protocol = *q.Protocol
		}
		return name == p.Name && protocol == protocolName(p.Protocol) && q.Port != nil
	})
}

func protocolName(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// lookAtPorts explains ports that pods which are ready do not have, and notes what only some clients reach.
func (w *walk) lookAtPorts(s *corev1.Service, ready []*corev1.Pod) (plan.State, []plan.Wait) {
	state := plan.Steady
	var waits []plan.Wait
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		named, declared := portsOf(ready, protocolName(p.Protocol))
		switch want := p.TargetPort; {
		case want.StrVal != "" && !slices.Contains(named, want.StrVal):
			state = plan.Stuck
			hint := fmt.Sprintf("name a port of the pods' containers %q, or give targetPort as a number", want.StrVal)
			if len(named) > 0 {
				hint = "set targetPort to a name that there is, " + strings.Join(named, " or ") + ", or to a number"
			}
			waits = append(waits, plan.Wait{Reason: "NoSuchTargetPort",
				Message: fmt.Sprintf("port %d leads to the port named %q (%s), and no container of its pods has one", p.Port, want.StrVal, protocolName(p.Protocol)), Hint: hint})
		case want.StrVal == "" && len(declared) > 0 && !slices.Contains(declared, target(p)):
			waits = append(waits, plan.Wait{Reason: "TargetPortNotNamed", Message: fmt.Sprintf(
				"port %d leads to port %d (%s), which no container of its pods names: it leads somewhere only if something listens there all the same", p.Port, target(p), protocolName(p.Protocol))})
		}
	}
	waits = append(waits, w.localNotes(s, ready)...)
	if other := s.Spec.LoadBalancerClass; other != nil && s.Spec.Type == corev1.ServiceTypeLoadBalancer && *other != ownClass && len(s.Status.LoadBalancer.Ingress) == 0 {
		if state == plan.Steady {
			state = plan.Waiting
		}
		waits = append(waits, plan.Wait{Reason: "OtherLoadBalancer", Message: "its load balancer is of class " + *other + ", and has given it no address",
			Hint: "run the load balancer of that class, or make the service anew without spec.loadBalancerClass"})
	}
	return state, waits
}

// ownClass is the class of the cluster's own load balancer (cluster/balancer).
const ownClass = "coracle.io/nodes"

func target(p *corev1.ServicePort) int32 {
	if p.TargetPort.IntVal != 0 {
		return p.TargetPort.IntVal
	}
	return p.Port
}

// portsOf are the names and numbers of the ports that containers of pods declare, each once.
func portsOf(pods []*corev1.Pod, protocol corev1.Protocol) (names []string, numbers []int32) {
	for _, pod := range pods {
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				for _, p := range list[i].Ports {
					if protocolName(p.Protocol) != protocol {
						continue
					}
					if p.Name != "" && !slices.Contains(names, p.Name) {
						names = append(names, p.Name)
					}
					if !slices.Contains(numbers, p.ContainerPort) {
						numbers = append(numbers, p.ContainerPort)
					}
				}
			}
		}
	}
	return names, numbers
}

// localNotes says at which nodes a traffic policy Local leads nowhere.
func (w *walk) localNotes(s *corev1.Service, ready []*corev1.Pod) []plan.Wait {
	inside := s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	outside := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if !inside && !outside {
		return nil
	}
	var without []string
	for _, o := range w.r.List(resource.Nodes, "") {
		n, ok := o.(*corev1.Node)
		if !ok {
			continue
		}
		if is := nodestate.Ready(n); is && !slices.ContainsFunc(ready, func(p *corev1.Pod) bool { return p.Spec.NodeName == n.Name }) {
			without = append(without, n.Name)
		}
	}
	if len(without) == 0 {
		return nil
	}
	nodes := strings.Join(without[:min(len(without), few)], ", ")
	if more := len(without) - few; more > 0 {
		nodes += fmt.Sprintf(" and %d more", more)
	}
	var notes []plan.Wait
	if inside {
		notes = append(notes, plan.Wait{Reason: "InternalTrafficPolicyLocal", Message: "all its endpoints are on other nodes than " + nodes +
			": it leads nowhere from pods there (internalTrafficPolicy: Local)", Hint: "have a pod of it on each node, or set internalTrafficPolicy to Cluster"})
	}
	if outside {
		notes = append(notes, plan.Wait{Reason: "ExternalTrafficPolicyLocal", Message: "all its endpoints are on other nodes than " + nodes +
			": who comes from outside is led nowhere there (externalTrafficPolicy: Local)", Hint: "have a pod of it on each node, or set externalTrafficPolicy to Cluster"})
	}
	return notes
}

// lookAtRange explains a range whose addresses are all given. What else keeps one from giving any is its controller's word.
func (w *walk) lookAtRange(c *networkingv1.ServiceCIDR) (plan.State, []plan.Wait) {
	// A service has an address of one family, or one of each.
	for _, six := range []bool{false, true} {
		if used, all, of := addressesUsed(w.r, c, six); all > 0 && used >= all {
			return plan.Stuck, []plan.Wait{{
				Reason: "RangeFull", Message: fmt.Sprintf("all %d addresses of %s are given: a service that asks for one is refused, unless another range has some",
					all, strings.Join(of, ", ")), Hint: "delete services, or create a ServiceCIDR with another range",
			}}
		}
	}
	return "", nil
}

// mostCounted is how many addresses of an IPv6 range there are at most: those beyond are never given.
const mostCounted = 20

// addressesUsed counts the addresses of the ranges of a family that services have, and those there are.
func addressesUsed(r object.Reader, c *networkingv1.ServiceCIDR, six bool) (used, all int, of []string) {
	for _, text := range c.Spec.CIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is6() != six || p.Addr().BitLen()-p.Bits() < 2 {
			continue
		}
		of = append(of, text)
		all += 1<<min(p.Addr().BitLen()-p.Bits(), 32) - 1
		if six {
			all = min(all, 1<<mostCounted-1)
		} else {
			all-- // the last is the broadcast address
		}
		for _, o := range r.List(resource.Services, "") {
			s, ok := o.(*corev1.Service)
			if !ok {
				continue
			}
			for _, ip := range s.Spec.ClusterIPs {
				if a, err := netip.ParseAddr(ip); err == nil && p.Contains(a) {
					used++
				}
			}
		}
	}
	return used, all, of
}
