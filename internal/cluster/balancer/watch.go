package balancer

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/behind"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// indexPorts files services and pods under the ports that they want of nodes' addresses; services with a load balancer of
// this cluster's under all as well.
const (
	indexPorts = "balancer.ports"

	balanced = "balanced "
	nodePort = "node "
	external = "external "
	address  = "at "
	all      = "all"
)

func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func portWord(p corev1.Protocol, number int32) string {
	return fmt.Sprintf("%s/%d", protocol(p), number)
}

func portsWanted(o object.Object) []string {
	s, ok := o.(*corev1.Service)
	if !ok {
		return nil
	}
	var out []string
	mine := ours(s)
	if mine {
		out = append(out, all)
	}
	if mine || len(s.Spec.ExternalIPs) > 0 {
		out = append(out, address+strings.Join(s.Spec.ExternalIPs, " ")+" "+s.Spec.LoadBalancerIP) // deprecated, and clients still write it
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if mine {
			out = append(out, balanced+portWord(p.Protocol, p.Port))
		}
		if len(s.Spec.ExternalIPs) > 0 {
			out = append(out, external+portWord(p.Protocol, p.Port))
		}
		if p.NodePort != 0 {
			out = append(out, nodePort+portWord(p.Protocol, p.NodePort))
		}
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 {
		out = append(out, nodePort+portWord(corev1.ProtocolTCP, n))
	}
	return out
}

// hostPorts are the ports that a pod has of its node, for as long as it has not ended.
func hostPorts(o object.Object) []string {
	pod, ok := o.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" || podstate.Ended(pod) {
		return nil
	}
	var out []string
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.HostPort != 0 {
				out = append(out, balanced+portWord(p.Protocol, p.HostPort))
			}
		}
	}
	return out
}

// rivals asks for the services that want a port which an object has got, or has given up.
func rivals(values func(object.Object) []string) func(object.Reader, object.Object, object.Object) []object.Key {
	return func(r object.Reader, before, after object.Object) []object.Key {
		var was, is []string
		if before != nil {
			was = values(before)
		}
		if after != nil {
			is = values(after)
		}
		if slices.Equal(was, is) {
			return nil
		}
		var keys []object.Key
		for _, word := range append(was, is...) {
			if port, ok := trim(word); ok {
				for _, o := range r.Indexed(resource.Services, indexPorts, balanced+port) {
					keys = append(keys, object.KeyOf(o))
				}
			}
		}
		return keys
	}
}

func trim(word string) (port string, ok bool) {
	for _, kind := range []string{balanced, nodePort, external} {
		if len(word) > len(kind) && word[:len(kind)] == kind {
			return word[len(kind):], true
		}
	}
	return "", false
}

// ofNodes asks for all services with a load balancer when a node comes, goes, or may be used otherwise.
func ofNodes(r object.Reader, before, after object.Object) []object.Key {
	if shape(before) == shape(after) {
		return nil
	}
	var keys []object.Key
	for _, o := range r.Indexed(resource.Services, indexPorts, all) {
		keys = append(keys, object.KeyOf(o))
	}
	return keys
}

// shape is what matters of a node.
func shape(o object.Object) (out struct {
	there, ready, closed, out bool
	address                   string
	port                      int32
}) {
	n, ok := o.(*corev1.Node)
	if !ok || n == nil {
		return out
	}
	out.there = true
	out.ready = nodestate.Ready(n)
	out.closed = n.Spec.Unschedulable
	out.out = nodestate.Simulated(n) || n.DeletionTimestamp != nil || excluded(n)
	if a, ok := addressOf(n); ok {
		out.address = a.String()
	}
	out.port = n.Status.DaemonEndpoints.KubeletEndpoint.Port
	return out
}

// ofSlices asks for a service of the traffic policy Local whose endpoints have moved, and for all where the API server has.
func ofSlices(r object.Reader, before, after object.Object) []object.Key {
	o := after
	if o == nil {
		o = before
	}
	if o.GetNamespace() == "default" && o.GetName() == "kubernetes" {
		var keys []object.Key
		for _, s := range r.Indexed(resource.Services, indexPorts, all) {
			keys = append(keys, object.KeyOf(s))
		}
		return keys
	}
	key, _ := behind.ServiceOf(o)
	obj, ok := r.Get(resource.Services, key.Namespace, key.Name)
	if !ok || obj.(*corev1.Service).Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || !ours(obj.(*corev1.Service)) {
		return nil
	}
	return []object.Key{key}
}
