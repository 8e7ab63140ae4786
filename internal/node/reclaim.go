package node

import (
	"context"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
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
		if !pause(ctx, wait+rand.N(wait)) {
			return
		}
		wait = min(2*wait, 30*time.Second)
	}
}

func (a *agent) watchVolumes(ctx context.Context) error {
	if _, err := a.trust.await(ctx, serving); err != nil {
		return err
	}
	items, revision, err := a.cfg.Client.List(ctx, resource.PersistentVolumes, client.ListOptions{})
	if err != nil {
		return err
	}
	for _, obj := range items {
		a.reclaim(ctx, obj)
	}
	w, err := a.cfg.Client.Watch(ctx, resource.PersistentVolumes, client.ListOptions{Revision: revision})
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

// reclaim removes a volume's data in the background, trying again while it is still in use.
func (a *agent) reclaim(ctx context.Context, obj client.Object) {
	pv, ok := obj.(*corev1.PersistentVolume)
	if !ok || !a.volumes.Reclaims(pv) {
		return
	}
	a.wg.Go(func() {
		wait := 500 * time.Millisecond
		for {
			err := errHolding
			if a.trust.serves() {
				err = a.volumes.Reclaim(ctx, pv)
			}
			if err == nil || ctx.Err() != nil || apierrors.IsNotFound(err) {
				return
			}
			if !apierrors.IsConflict(err) {
				a.cfg.Log.Warn("reclaim a volume", "name", pv.Name, "err", err)
			}
			if !pause(ctx, wait) {
				return
			}
			wait = min(2*wait, time.Minute)
			now, err := a.cfg.Client.Get(ctx, resource.PersistentVolumes, "", pv.Name)
			if apierrors.IsNotFound(err) {
				return
			}
			if err == nil {
				if pv = now.(*corev1.PersistentVolume); !a.volumes.Reclaims(pv) {
					return
				}
			}
		}
	})
}
