package fleet

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
	"coracle/internal/simnode"
)

// volumesByReclaimer files volumes whose data are to be removed under the node that is to do it.
var volumesByReclaimer = object.Index{Resource: resource.PersistentVolumes, Name: "fleet.reclaimer", Values: func(o object.Object) []string {
	if name := reclaim.Assigned(o.(*corev1.PersistentVolume)); name != "" {
		return []string{name}
	}
	return nil
}}

// volumeChanged looks at a volume that a simulated node is to reclaim. f.mu is held.
func (f *Fleet) volumeChanged(pv *corev1.PersistentVolume) {
	if n := f.nodes[reclaim.Assigned(pv)]; n != nil && !n.silent {
		f.enqueue(item{sort: aVolume, key: object.KeyOf(pv)})
	}
}

// syncVolume says that a volume's data are removed: on a simulated node there never were any.
func (f *Fleet) syncVolume(ctx context.Context, key object.Key) time.Time {
	o, ok := f.view.Get(resource.PersistentVolumes, "", key.Name)
	if !ok {
		return time.Time{}
	}
	pv := o.(*corev1.PersistentVolume)
	no, ok := f.view.Get(resource.Nodes, "", reclaim.Assigned(pv))
	if !ok || !nodestate.Simulated(no.(*corev1.Node)) || simnode.Silent(no.(*corev1.Node)) {
		return time.Time{}
	}
	if reclaim.Keeps(pv) != "" {
		return time.Time{} // what the label alone says is not heeded; a change of the volume asks again
	}
	if _, err := f.client.Update(ctx, reclaim.Done(pv), ""); err != nil {
		return f.failed(ctx, item{sort: aVolume, key: key}, err)
	}
	return time.Time{}
}
