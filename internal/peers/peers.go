// Package peers is what nodes are told of pods beyond their own, so that they can enforce network policies: of each pod its
// labels, addresses and named ports, of each namespace its labels, and the policies.
//
// It owns the form of that: messages, one a line of JSON, in a stream without end at Path; and the projection, which says no
// more than policies can ask for. A node may read the stream, and no pod but its own. A cluster without policies is told of in
// a few bytes for each pod that begins, to its own node alone. It refuses sockets (package peers/tell is the server's end), and
// what policies mean.
//
// The stream begins with all there is, between Begin and End, and goes on with what changes. A pod bound to the node that is told is
// sent when all the policies have been that were accepted before its binding: a node that waits for it knows what the
// pod's user could count on.
package peers

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/podstate"
)

// Path is where a server tells of peers.
const Path = "/coracle/peers"

// Message is a line. One of its fields is set.
type Message struct {
	Begin     bool                        `json:"begin,omitempty"`
	End       bool                        `json:"end,omitempty"`
	Policy    *networkingv1.NetworkPolicy `json:"policy,omitempty"`
	Namespace *Namespace                  `json:"namespace,omitempty"`
	Pod       *Pod                        `json:"pod,omitempty"`
	Gone      *Gone                       `json:"gone,omitempty"`
}

// Namespace is one with its labels.
type Namespace struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Pod is what policies see of one.
type Pod struct {
	Namespace string            `json:"ns"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	IPs       []string          `json:"ips,omitempty"`
	Ports     []Port            `json:"ports,omitempty"`
	// Here: it is bound to the node that is told, and called so.
	Here types.UID `json:"here,omitempty"`
}

// Port is a named one of a container.
type Port struct {
	Name     string          `json:"name"`
	Number   int32           `json:"port"`
	Protocol corev1.Protocol `json:"protocol,omitempty"`
}

// Gone is something that is no peer any more.
type Gone struct {
	Kind      string `json:"kind"` // Policy, Namespace or Pod
	Namespace string `json:"ns,omitempty"`
	Name      string `json:"name"`
}

// The kinds of Gone.
const (
	KindPolicy    = "Policy"
	KindNamespace = "Namespace"
	KindPod       = "Pod"
)

// OfPolicy is what is told of a policy.
func OfPolicy(p *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, ResourceVersion: p.ResourceVersion}, Spec: p.Spec,
	}
}

// OfNamespace is what is told of a namespace.
func OfNamespace(n *corev1.Namespace) *Namespace { return &Namespace{n.Name, n.Labels} }

// OfPod is what a node is told of a pod; nil for one that is nobody's peer by its labels and not bound to that node.
func OfPod(p *corev1.Pod, node string) *Pod {
	out := &Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels}
	if here := p.Spec.NodeName == node && node != ""; here {
		out.Here = p.UID
	} else if !isPeer(p) {
		return nil
	}
	for _, ip := range p.Status.PodIPs {
		out.IPs = append(out.IPs, ip.IP)
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for _, port := range list[i].Ports {
				if port.Name != "" {
					out.Ports = append(out.Ports, Port{port.Name, port.ContainerPort, port.Protocol})
				}
			}
		}
	}
	return out
}

func isPeer(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && len(p.Status.PodIPs) > 0 && !podstate.Ended(p)
}

// Same says whether two versions of a pod are told alike, to whatever node. It costs little: most of what changes of pods is no
// policy's business.
func Same(a, b *corev1.Pod) bool {
	return a.UID == b.UID && a.Spec.NodeName == b.Spec.NodeName && isPeer(a) == isPeer(b) &&
		slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && maps.Equal(a.Labels, b.Labels)
}

// AsPod is a pod as the API has them, with what was told of it.
func (p *Pod) AsPod() *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, UID: p.Here}}
	for _, ip := range p.IPs {
		out.Status.PodIPs = append(out.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(p.Ports) > 0 {
		c := corev1.Container{}
		for _, port := range p.Ports {
			c.Ports = append(c.Ports, corev1.ContainerPort{Name: port.Name, ContainerPort: port.Number, Protocol: port.Protocol})
		}
		out.Spec.Containers = []corev1.Container{c}
	}
	return out
}
