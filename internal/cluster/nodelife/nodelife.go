// Package nodelife judges nodes and draws the consequences for their pods: heartbeats and
// conditions, taints by condition and cordon, eviction from tainted nodes, collection of pods
// that no node will ever end, and the pod range of each node.
//
// It owns pure planners, one for each of upstream's controllers of these names. A heartbeat is a
// change of the node's lease that the server saw with its own eyes (plan.Witness), whatever time
// is written in it; the server's own absence counts for nobody. The start of a taint's patience is
// its timeAdded. It refuses to touch what the node itself reports while it is alive.
package nodelife

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Config is what the judgements depend on besides the cluster.
type Config struct {
	// PodRange is cut into ranges of NodeBits for the nodes; invalid hands none out.
	PodRange netip.Prefix
	// NodeBits is the prefix length of a node's range; 0 means 24.
	NodeBits int
	// SimulatedRange is cut likewise for simulated nodes, of which there may be more than
	// PodRange has ranges and whose addresses lead nowhere; invalid means PodRange.
	SimulatedRange netip.Prefix
	// TerminatedPods is how many ended pods are kept; 0 means upstream's 12,500.
	TerminatedPods int
}

// How long a silent node is given (node-monitor-grace-period as Kubernetes had it until v1.32,
// and node-startup-grace-period).
const (
	Grace        = 40 * time.Second
	StartupGrace = 60 * time.Second
)

// LeaseNamespace holds the leases that nodes renew (KEP-589).
const LeaseNamespace = corev1.NamespaceNodeLease

// HeartbeatLease is the annotation with which a node names another lease of LeaseNamespace than
// its own as its sign of life: nodes that live and die together, as simulated ones do, renew one
// lease for all of them.
const HeartbeatLease = "coracle.io/heartbeat-lease"

const (
	indexNode       = "nodelife.node"
	indexReady      = "nodelife.ready"
	indexTerminated = "nodelife.terminated"
)

// Controllers returns the planners.
func Controllers(cfg Config) []plan.Controller {
	if cfg.NodeBits == 0 {
		cfg.NodeBits = 24
	}
	if cfg.TerminatedPods == 0 {
		cfg.TerminatedPods = 12500
	}
	out := []plan.Controller{
		lifecycle(), readiness(), eviction(), podCollector(), terminatedCollector(cfg.TerminatedPods),
	}
	if cfg.PodRange.IsValid() {
		out = append(out, ranges(cfg))
	}
	return out
}

// PodsByNode files pods under the node they are on, and those on none under "". A room that needs
// it too declares this very index, so that one is kept for both.
var PodsByNode = object.Index{Resource: resource.Pods, Name: indexNode, Values: func(o object.Object) []string {
	return []string{o.(*corev1.Pod).Spec.NodeName}
}}

// podsOf asks for the pods of a node when a change to it matters to them.
func podsOf(matters func(before, after *corev1.Node) bool) plan.Watch {
	return plan.Watch{Resource: resource.Nodes, Keys: func(r object.Reader, before, after object.Object) []object.Key {
		was, is := nodeOrNil(before), nodeOrNil(after)
		if !matters(was, is) {
			return nil
		}
		var name string
		if is != nil {
			name = is.Name
		} else {
			name = was.Name
		}
		var keys []object.Key
		for _, p := range r.Indexed(resource.Pods, indexNode, name) {
			keys = append(keys, object.KeyOf(p))
		}
		return keys
	}}
}

func nodeOrNil(o object.Object) *corev1.Node {
	if o == nil {
		return nil
	}
	return o.(*corev1.Node)
}

func nodeCondition(n *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == kind {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func isReady(n *corev1.Node) bool {
	if n == nil {
		return false
	}
	c := nodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func readyChanged(before, after *corev1.Node) bool { return isReady(before) != isReady(after) }

func hasTaint(n *corev1.Node, key string, effect corev1.TaintEffect) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect })
}
