// Package drain decides when a pod that serves may be told to stop: once no node leads new connections to it any more.
//
// Kubernetes takes a pod out of its services and stops it at the same time, and whoever is quicker decides whether requests
// are lost. Here the pod's node waits first. It needs two facts: that the EndpointSlices of every service which selects
// the pod say that it is not ready, and up to which revision of them each node leads connections as they say. The second is
// an annotation of the node's lease (Routed).
//
// It owns these decisions, which are pure. It refuses the waiting, and to know how connections are led.
package drain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"coracle/internal/behind"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/podstate"
)

// Routed is the annotation of a node's lease by which it acknowledges: the revision of the EndpointSlices up to which it
// leads new connections as they say. A node that leads none has no such annotation.
const Routed = "coracle.io/routed"

// Awaited is the annotation of an EndpointSlice that names pods which have become ready while others of their service are of
// another revision: their rollout waits until each node has acknowledged the slice as it is then.
const Awaited = "coracle.io/awaited"

// Path is where a server tells how far all nodes have come, and waits for them.
const Path = "/coracle/routed"

// Timeout is the annotation of a pod that bounds its draining, and the wait for nodes to know it when it is new, such as "5s";
// "0s" turns both off.
const Timeout = "coracle.io/drain-timeout"

// DefaultTimeout is how long a pod drains at most where it does not say.
const DefaultTimeout = 2 * time.Second

// Settle is how long a pod goes on after the last node has let go of it: connections that were led to it just before are on
// their way, or wait to be accepted, and a listener that is closed refuses those.
const Settle = 500 * time.Millisecond

// Limit returns how long a pod that has just been deleted may go on as if it were not, while nodes let go of it: what it
// says or DefaultTimeout, and at most half of the time that it has to end, so that it can still end in order. problem says
// that the annotation cannot be read.
func Limit(pod *corev1.Pod) (limit time.Duration, problem error) {
	limit, problem = Bound(pod)
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		limit = min(limit, time.Duration(*g)*time.Second/2)
	}
	return limit, problem
}

// Bound is for how long nodes are waited for at most on behalf of a pod, as it comes and as it goes.
func Bound(pod *corev1.Pod) (limit time.Duration, problem error) {
	limit = DefaultTimeout
	if text, ok := pod.Annotations[Timeout]; ok {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			problem = fmt.Errorf("annotation %s: %q is no length of time: write one such as \"2s\", or \"0s\" for none; %s holds", Timeout, text, DefaultTimeout)
		} else {
			limit = d
		}
	}
	return limit, problem
}

// Lately is for how long before its deletion a pod that is not ready any more may have been and still be led to: its node
// says so, then its slices, then every node. A probe that fails once too often on a busy machine makes a pod the first that a
// controller takes away.
const Lately = 5 * time.Second

// Serves says whether connections are led to a pod by way of a service: the pod is ready or was so lately, and the service is
// one whose endpoints become unready as their pods go. Those of a service that publishes pods which are not ready never do.
func Serves(s *corev1.Service, pod *corev1.Pod) bool {
	return readyLately(pod) && s.Namespace == pod.Namespace && s.DeletionTimestamp == nil &&
		s.Spec.Type != corev1.ServiceTypeExternalName && !s.Spec.PublishNotReadyAddresses && behind.Selects(s, pod)
}

// readyLately says whether a pod is ready, or has ceased to be shortly before its deletion. One that has never been is not ready
// since it started.
func readyLately(pod *corev1.Pod) bool {
	c := podstate.Condition(pod, corev1.PodReady)
	if c == nil {
		return false
	}
	if c.Status == corev1.ConditionTrue {
		return true
	}
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil || pod.Status.StartTime == nil {
		return false
	}
	const resolution = time.Second // of times in the API
	deleted := pod.DeletionTimestamp.Add(-time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second)
	return c.LastTransitionTime.Sub(pod.Status.StartTime.Time) > resolution && deleted.Sub(c.LastTransitionTime.Time) <= Lately
}

// Left says whether the slices of a service no longer offer a pod, and the latest revision among those that name it: whoever
// has come to that revision leads no new connection to it while there are others. Slices that do not name the pod at all
// have yet to hear that it was ready.
func Left(pod object.Key, of []*discoveryv1.EndpointSlice) (revision uint64, left bool) {
	for _, s := range of {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if ref := e.TargetRef; ref == nil || ref.Kind != "Pod" || ref.Namespace != pod.Namespace || ref.Name != pod.Name {
				continue
			}
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				return 0, false
			}
			n, err := strconv.ParseUint(s.ResourceVersion, 10, 64)
			if err != nil {
				return 0, false
			}
			revision, left = max(revision, n), true
		}
	}
	return revision, left
}

// Leaving says whether a slice has an endpoint whose pod is going: its node may be waiting for acknowledgements.
func Leaving(s *discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
		return e.Conditions.Terminating != nil && *e.Conditions.Terminating
	})
}

// KnownBy is the instant by which a ready pod counts as known to every node, whether or not all have said so: Bound after it became
// ready. It is zero where nobody is to be waited for.
func KnownBy(pod *corev1.Pod) time.Time {
	since, _ := podstate.ReadySince(pod)
	limit, _ := Bound(pod)
	if since.IsZero() || limit <= 0 {
		return time.Time{}
	}
	return since.Add(limit)
}

// Awaits returns the names of the pods for which a rollout waits until every node has come to the slice's revision.
func Awaits(s *discoveryv1.EndpointSlice) []string {
	text := s.Annotations[Awaited]
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// Revision is that of a slice; 0 for one that has none.
func Revision(s *discoveryv1.EndpointSlice) uint64 {
	n, err := strconv.ParseUint(s.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Acknowledged returns the revision that a lease acknowledges; ok is false for a node that leads no connections.
func Acknowledged(l *coordinationv1.Lease) (revision uint64, ok bool) {
	text, ok := l.Annotations[Routed]
	if !ok {
		return 0, false
	}
	revision, err := strconv.ParseUint(text, 10, 64)
	return revision, err == nil
}

// Counts says whether a node's acknowledgement is waited for: one that is not ready leads nobody anywhere, or cannot say
// so, and would hold up everybody.
func Counts(n *corev1.Node) bool { return nodestate.Ready(n) }
