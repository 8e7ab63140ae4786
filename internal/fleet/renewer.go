package fleet

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/simnode"
)

const (
	// beatEvery is how often the lease is renewed, as each kubelet renews its own.
	beatEvery = 10 * time.Second
	// retryBeat is how soon a renewal that failed is tried again, and beatPatience how long one
	// may take: nothing else is begun meanwhile.
	retryBeat    = time.Second
	beatPatience = 5 * time.Second
)

// leaseRenewer renews the one lease for as long as there is a node that lives by it.
type leaseRenewer struct {
	fleet *Fleet
	next  time.Time
	lease *coordinationv1.Lease
}

// beat renews the lease if it is time, and returns when it will be; zero when never.
func (h *leaseRenewer) beat(ctx context.Context, now time.Time) time.Time {
	if !h.wanted() {
		if h.lease != nil {
			h.stop(ctx)
		}
		h.next, h.lease = time.Time{}, nil
		return time.Time{}
	}
	if now.Before(h.next) {
		return h.next
	}
	bounded, cancel := context.WithTimeout(ctx, beatPatience)
	defer cancel()
	h.next = now.Add(beatEvery)
	if err := h.renew(bounded, now); err != nil {
		h.next = now.Add(retryBeat)
		if ctx.Err() == nil && !apierrors.IsConflict(err) {
			h.fleet.opts.Log.WarnContext(ctx, "renew the lease of the simulated nodes", "error", err)
		}
	}
	return h.next
}

func (h *leaseRenewer) wanted() bool {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return len(h.fleet.nodes) > 0
}

// renew writes with one call while nobody else does.
func (h *leaseRenewer) renew(ctx context.Context, now time.Time) error {
	if h.lease == nil {
		o, err := h.fleet.client.Get(ctx, resource.Leases, nodelife.LeaseNamespace, simnode.Lease)
		switch {
		case apierrors.IsNotFound(err):
			return h.create(ctx, now)
		case err != nil:
			return err
		}
		h.lease = o.(*coordinationv1.Lease)
	}
	next := h.lease.DeepCopy()
	h.lease = nil
	next.Spec.RenewTime = &metav1.MicroTime{Time: now}
	o, err := h.fleet.client.Update(ctx, next, "")
	if err == nil {
		h.lease = o.(*coordinationv1.Lease)
	}
	return err
}

func (h *leaseRenewer) create(ctx context.Context, now time.Time) error {
	holder, seconds := Name, int32(nodelife.Grace/time.Second)
	o, err := h.fleet.client.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: nodelife.LeaseNamespace, Name: simnode.Lease},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: now},
		},
	})
	if err == nil {
		h.lease = o.(*coordinationv1.Lease)
	}
	return err
}

// stop removes the lease when its last node is gone.
func (h *leaseRenewer) stop(ctx context.Context) {
	ref := object.Ref{Resource: resource.Leases, Key: object.KeyOf(h.lease), UID: h.lease.UID}
	if _, err := h.fleet.client.Delete(ctx, ref, metav1.DeleteOptions{}); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
		h.fleet.opts.Log.WarnContext(ctx, "remove the lease of the simulated nodes", "error", err)
	}
}
