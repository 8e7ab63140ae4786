// Package snapshot keeps what a node knows of the cluster beyond its own pods: services, what stands behind them, and the
// node itself, followed by watches and kept on disk (snapshotfile) for the agent that comes next. It owns which kinds these
// are, and what is kept of their objects. It hears no server whose word does not count, and refuses to say what follows
// from a snapshot.
package snapshot

import (
	"context"
	"maps"
	"slices"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"coracle/internal/client"
	"coracle/internal/node/trust"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// Follow keeps a snapshot of what lies beyond a node's pods: services, what stands behind them, and the node itself. It
// begins with the first server whose word counts, closes ready once the snapshot holds all there is, and returns when ctx
// ends. A server whose word does not count is not heard (trust.Guard), so that what it does not know stays.
func Follow(ctx context.Context, guarded client.Interface, t *trust.Trust, node string, snapshot *view.View, ready chan<- struct{}) {
	if _, err := t.Await(ctx, trust.Serving); err != nil {
		return
	}
	following := view.FollowSources(ctx, trust.Patient(guarded, t), snapshot,
		view.Source{Resource: resource.Nodes, FieldSelector: "metadata.name=" + node, Keep: KeepOf},
		view.Source{Resource: resource.Services, Keep: KeepOf},
		view.Source{Resource: resource.EndpointSlices, Keep: KeepOf},
		view.Source{Resource: resource.ServiceCIDRs},
	)
	<-following.Synced()
	if ctx.Err() == nil {
		close(ready)
	}
	<-following.Done()
}

// KeepOf returns what the snapshot keeps of an object: not what no reader of it needs, and the words that many of them
// say shared: who manages which field goes, and a hundred thousand endpoints name their node, zone and namespace in one
// string each. The object is not changed.
func KeepOf(obj object.Object) object.Object {
	switch o := obj.(type) {
	case *corev1.Service:
		kept := *o
		kept.ManagedFields = nil
		if _, applied := o.Annotations[corev1.LastAppliedConfigAnnotation]; applied {
			kept.Annotations = maps.Clone(o.Annotations)
			delete(kept.Annotations, corev1.LastAppliedConfigAnnotation)
		}
		return &kept
	case *discoveryv1.EndpointSlice:
		kept := *o
		kept.ManagedFields, kept.OwnerReferences = nil, nil
		kept.Endpoints = slices.Clone(o.Endpoints)
		for i := range kept.Endpoints {
			keepOfEndpoint(&kept.Endpoints[i])
		}
		return &kept
	}
	return obj
}

func keepOfEndpoint(e *discoveryv1.Endpoint) {
	e.NodeName, e.Zone = shared(e.NodeName), shared(e.Zone)
	if ref := e.TargetRef; ref != nil {
		e.TargetRef = &corev1.ObjectReference{
			Kind: unique.Make(ref.Kind).Value(), Namespace: unique.Make(ref.Namespace).Value(), Name: ref.Name,
		}
	}
	c := &e.Conditions
	c.Ready, c.Serving, c.Terminating = sharedBool(c.Ready), sharedBool(c.Serving), sharedBool(c.Terminating)
}

func shared(s *string) *string {
	if s == nil {
		return nil
	}
	word := unique.Make(*s).Value()
	return &word
}

var yes, no = true, false

func sharedBool(b *bool) *bool {
	switch {
	case b == nil:
		return nil
	case *b:
		return &yes
	}
	return &no
}
