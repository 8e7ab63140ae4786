package policy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// The name server of a node is no pod, but policies are written as if it were: "the pods labelled k8s-app=kube-dns in
// kube-system, port 53". It counts as such a pod, at its port alone: the rest of its address is the node's.

// NamesPort is what a pod of kube-dns calls its port, over UDP; NamesStream over TCP.
const (
	NamesPort   = "dns"
	NamesStream = "dns-tcp"

	namesNumber = 53
)

// namesOf is the name of the pod that stands for the name server; a slash is in no name of the API.
const namesOf = "coracle.io/name-server"

var (
	namesProtocols = []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP}
	namesLabels    = labels.Set{"k8s-app": "kube-dns"}
)

// NameServer returns the pod that stands for a node's name server.
func NameServer(at netip.Addr) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: metav1.NamespaceSystem, Name: namesOf, Labels: namesLabels,
	}}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{
		{Name: NamesPort, ContainerPort: namesNumber, Protocol: corev1.ProtocolUDP},
		{Name: NamesStream, ContainerPort: namesNumber, Protocol: corev1.ProtocolTCP},
	}}}
	p.Status.PodIPs = []corev1.PodIP{{IP: at.String()}}
	return p
}

// isNames says whether a pod is that of NameServer: no pod of the API's has such a name.
func isNames(p *corev1.Pod) bool { return p.Namespace == metav1.NamespaceSystem && p.Name == namesOf }

// asksNames says whether a connection is to a name server's port.
func asksNames(protocol corev1.Protocol, number uint16) bool {
	return number == namesNumber && slices.Contains(namesProtocols, protocol)
}

// mayName says whether a selection chooses the name server, if only its namespace is chosen.
func (s *selection) mayName() bool {
	return (s.namespaces != nil || s.namespace == metav1.NamespaceSystem) && s.pods.Matches(namesLabels)
}
