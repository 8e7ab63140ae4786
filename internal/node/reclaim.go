package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/node/trust"
	"coracle/internal/node/volume"
	"coracle/internal/pause"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// followVolumes removes the data of released volumes that this node is told to remove.
func (a *agent) followVolumes(ctx context.Context) {
	wait := time.Second
	for ctx.Err() == nil {
		if err := a.watchVolumes(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Info("watch of persistent volumes broke", "err", err)
		} else {
			wait = time.Second
		}
		if !pause.For(ctx, wait+rand.N(wait)) {
			return
		}
		wait = min(2*wait, 30*time.Second)
	}
}

func (a *agent) watchVolumes(ctx context.Context) error {
	if _, err := a.trust.Await(ctx, trust.Serving); err != nil {
		return err
	}
	mine := client.ListOptions{LabelSelector: reclaim.Selector(a.cfg.Name)}
	items, revision, err := a.cfg.Client.List(ctx, resource.PersistentVolumes, mine)
	if err != nil {
		return err
	}
	for _, obj := range items {
		a.reclaim(ctx, obj)
	}
	mine.Revision = revision
	w, err := a.cfg.Client.Watch(ctx, resource.PersistentVolumes, mine)
	if err != nil {
		return err
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		switch ev.Type {
		case watch.Added, watch.Modified:
			if obj, ok := ev.Object.(client.Object); ok {
				a.reclaim(ctx, obj)
			}
		case watch.Error:
			return apierrors.FromObject(ev.Object)
		}
	}
	return nil
}

// reclaim removes a volume's data in the background, trying again while it is still in use. What
// the volume itself forbids is told once: a change of the volume asks again.
func (a *agent) reclaim(ctx context.Context, obj client.Object) {
	pv, ok := obj.(*corev1.PersistentVolume)
	if !ok || !a.volumes.Reclaims(pv) {
		return
	}
	a.wg.Go(func() {
		wait := 500 * time.Millisecond
		for {
			err := trust.ErrHolding
			if a.trust.Serves() {
				err = a.volumes.Reclaim(ctx, pv.Name)
			}
			if err == nil || ctx.Err() != nil || errors.Is(err, volume.ErrNotAsked) {
				return
			}
			if volume.Stays(err) {
				a.cfg.Log.Warn("keep the data of a volume", "name", pv.Name, "err", err)
				a.events.Volume(pv, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
				return
			}
			if !apierrors.IsConflict(err) {
				a.cfg.Log.Warn("reclaim a volume", "name", pv.Name, "err", err)
			}
			if !pause.For(ctx, wait) {
				return
			}
			wait = min(2*wait, time.Minute)
		}
	})
}
