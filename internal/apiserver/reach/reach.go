// Package reach says where a request through pods/proxy, services/proxy or nodes/proxy goes.
//
// It owns the names of such requests ([SCHEME:]NAME[:PORT]), the choice of address and port from the objects, and which
// addresses a proxy never goes to. It refuses to dial, to look objects up, and to know who asks.
//
// Behaviour: https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/ and the proxy
// operations of Pod, Service and Node in the API reference.
package reach

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// Target is what a proxy request names.
type Target struct {
	// Scheme is http or https; empty where the name says none.
	Scheme string
	Name   string
	// Port is a number, or a port's name where the object has named ports; empty where the name says none.
	Port string
}

// Parse reads NAME, NAME:PORT or SCHEME:NAME:PORT of an object of a kind. The error is a Status error (400).
func Parse(kind, text string) (Target, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(text)
	if !ok || strings.ContainsAny(text, "/ \n\x00") {
		return Target{}, apierrors.NewBadRequest(fmt.Sprintf(
			"invalid %s request %q: it is NAME, NAME:PORT or SCHEME:NAME:PORT, where SCHEME is http or https", kind, text))
	}
	return Target{Scheme: scheme, Name: name, Port: port}, nil
}

// Allowed says whether a proxy may go to an address: to none of the server's own machine and neighbourhood (loopback,
// link-local, among which are the metadata services of clouds), no multicast address, and not to none at all.
func Allowed(address string) bool {
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	return a.IsGlobalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Pod returns where a pod answers: at the port of the target, or the first that its containers name. Errors are Status
// errors.
func Pod(pod *corev1.Pod, to Target) (*url.URL, error) {
	address := pod.Status.PodIP
	if address == "" {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %q has no address yet: its phase is %s", pod.Name,
			cmp.Or(string(pod.Status.Phase), "unknown")))
	}
	if !Allowed(address) {
		return nil, notAllowed("pod", pod.Name, address)
	}
	port := to.Port
	if port == "" {
		port = firstPort(pod)
	}
	if port == "" {
		return &url.URL{Scheme: cmp.Or(to.Scheme, "http"), Host: bare(address)}, nil
	}
	if !isPort(port) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid port %q of pod %q: give a number from 1 to 65535", port, pod.Name))
	}
	return &url.URL{Scheme: cmp.Or(to.Scheme, "http"), Host: net.JoinHostPort(address, port)}, nil
}

func firstPort(pod *corev1.Pod) string {
	for i := range pod.Spec.Containers {
		if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
			return strconv.Itoa(int(ports[0].ContainerPort))
		}
	}
	return ""
}

// Endpoint is one place at which a service answers.
type Endpoint struct {
	Address string
	Port    int32
	// Pod is the name of the pod that answers there, of the service's namespace; empty for one of no pod.
	Pod string
}

// Service returns the ready endpoints of a service at the target's port: one of its ports by number or name, or the
// port without name. Addresses that a proxy may not go to are left out. Errors are Status errors.
func Service(svc *corev1.Service, slices []*discoveryv1.EndpointSlice, to Target) ([]Endpoint, error) {
	name, err := portName(svc, to.Port)
	if err != nil {
		return nil, err
	}
	var found []Endpoint
	for _, s := range slices {
		port := portOf(s, name)
		if port == 0 || s.Namespace != svc.Namespace || s.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			ref := e.TargetRef
			if ref == nil || ref.Kind != "Pod" || ref.Namespace != "" && ref.Namespace != svc.Namespace {
				continue // whose it is cannot be told: see Serves
			}
			for _, address := range e.Addresses {
				if Allowed(address) {
					found = append(found, Endpoint{Address: address, Port: port, Pod: ref.Name})
				}
			}
		}
	}
	if len(found) == 0 {
		return nil, apierrors.NewServiceUnavailable(noEndpoints(svc, to))
	}
	return found, nil
}

// NoEndpoints is the answer for a service whose endpoints are none of its pods'.
func NoEndpoints(svc *corev1.Service, to Target) error {
	return apierrors.NewServiceUnavailable(noEndpoints(svc, to))
}

func noEndpoints(svc *corev1.Service, to Target) string {
	message := fmt.Sprintf("no endpoints available for service %q", svc.Name)
	if to.Port != "" || slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == "" }) {
		return message
	}
	var names []string
	for i := range svc.Spec.Ports {
		names = append(names, svc.Spec.Ports[i].Name)
	}
	if len(names) == 0 {
		return message
	}
	return fmt.Sprintf("%s: its ports have names, so name one: %s:PORT with PORT one of %s", message, svc.Name, strings.Join(names, ", "))
}

// portName returns the name of a service's port that is given by number or name.
func portName(svc *corev1.Service, port string) (string, error) {
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return port, nil //nolint:nilerr // it is a name
	}
	for i := range svc.Spec.Ports {
		if int64(svc.Spec.Ports[i].Port) == number {
			return svc.Spec.Ports[i].Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, svc.Name))
}

func portOf(s *discoveryv1.EndpointSlice, name string) int32 {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Port != nil && (p.Name == nil && name == "" || p.Name != nil && *p.Name == name) {
			return *p.Port
		}
	}
	return 0
}

// Serves says whether an endpoint's address is one of its pod's: an endpoint is written by others, and must not lead
// to what no pod of the namespace has.
func Serves(pod *corev1.Pod, address string) bool {
	return pod.Status.PodIP == address ||
		slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == address })
}

// URL returns where the endpoint answers.
func (e Endpoint) URL(to Target) *url.URL {
	return &url.URL{Scheme: cmp.Or(to.Scheme, "http"), Host: net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))}
}

// Node returns where a node answers. agent says that it is the node's agent, which the caller shows its certificate to;
// any other port is a stranger's. Errors are Status errors.
func Node(node *corev1.Node, to Target) (at *url.URL, agent bool, err error) {
	own := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	address := ""
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			address = a.Address
			break
		}
	}
	if address == "" || own == 0 {
		return nil, false, apierrors.NewServiceUnavailable(fmt.Sprintf(
			"node %s has not said where its agent listens (status.addresses, status.daemonEndpoints)", node.Name))
	}
	if _, err := netip.ParseAddr(address); err != nil {
		return nil, false, notAllowed("node", node.Name, address)
	}
	if to.Port == "" || to.Port == strconv.Itoa(int(own)) {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(address, strconv.Itoa(int(own)))}, true, nil
	}
	if !isPort(to.Port) {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("invalid port %q of node %q: give a number from 1 to 65535", to.Port, node.Name))
	}
	if !Allowed(address) {
		return nil, false, notAllowed("node", node.Name, address)
	}
	return &url.URL{Scheme: cmp.Or(to.Scheme, "http"), Host: net.JoinHostPort(address, to.Port)}, false, nil
}

func notAllowed(kind, name, address string) error {
	return apierrors.NewBadRequest(fmt.Sprintf("address not allowed: %s %q says that it is at %q, and a proxy goes neither to "+
		"loopback and link-local addresses nor to what is no address of one machine", kind, name, address))
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// bare is an address as a URL's host without port.
func bare(address string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}
