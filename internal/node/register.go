package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/node/lineage"
	"coracle/internal/node/objects"
	"coracle/internal/node/trust"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/pause"
	"coracle/internal/resource"
)

// The node's heartbeat: its lease says that it lives, its status changes when something changes
// (https://kubernetes.io/docs/concepts/architecture/nodes/#node-heartbeats).
const (
	leaseEvery    = 10 * time.Second
	leaseDuration = 40 // seconds
	statusEvery   = 5 * time.Minute
	volumeRoot    = "coracle.io/volume-root"
)

// keepNode registers the node, then renews its lease and keeps its status true until ctx ends.
func (a *agent) keepNode(ctx context.Context) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := a.register(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		a.cfg.Log.Info("register the node", "err", err)
		if !pause.For(ctx, wait) {
			return
		}
	}
	a.begun(ctx)
	stop := a.hub.Subscribe(objects.Ref{Resource: resource.Nodes, Name: a.cfg.Name}, a.lookAgain)
	defer stop()
	lease := time.NewTicker(leaseEvery)
	defer lease.Stop()
	renewed := make(chan struct{}, 1)
	renew := func() {
		select {
		case renewed <- struct{}{}:
			a.wg.Go(func() {
				before := a.routed.Led()
				a.renewLease(ctx)
				<-renewed
				if a.routed.Led() > before && a.routed.Unacknowledged() {
					a.renewNow() // it could not wait for what this one does not say
				}
			})
		default: // the last is still on its way
		}
	}
	renew()
	retry := time.NewTimer(0)
	defer retry.Stop()
	wait := 100 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return
		case <-lease.C:
			renew()
			a.trust.Keep(time.Now())
		case <-a.beat:
			renew()
		case <-a.recheck:
			a.surveyed = time.Time{}
			a.introduce(ctx)
		case <-retry.C:
			a.surveyed = time.Time{}
		}
		if err := a.reportStatus(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Debug("report the node's status", "err", err)
			wait = min(2*wait, 5*time.Second)
			retry.Reset(wait)
		} else {
			wait = 100 * time.Millisecond
		}
	}
}

// renewNow asks for the lease to be renewed now.
func (a *agent) renewNow() {
	select {
	case a.beat <- struct{}{}:
	default:
	}
}

// lookAgain asks for the node's state to be looked at now.
func (a *agent) lookAgain() {
	select {
	case a.recheck <- struct{}{}:
	default:
	}
}

// register makes the Node object, or brings the labels and annotations of an existing one up to date.
func (a *agent) register(ctx context.Context) error {
	obj, err := a.cfg.Client.Get(ctx, resource.Nodes, "", a.cfg.Name)
	if apierrors.IsNotFound(err) {
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: a.cfg.Name, Labels: a.labels(), Annotations: a.annotations()},
			Spec:       corev1.NodeSpec{Taints: a.cfg.Taints},
		}
		node.Status = a.status(ctx, node, time.Now())
		_, err = a.cfg.Client.Create(ctx, node)
	} else if err == nil {
		node := obj.(*corev1.Node).DeepCopy()
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		if node.Annotations == nil {
			node.Annotations = map[string]string{}
		}
		maps.Copy(node.Labels, a.labels())
		maps.Copy(node.Annotations, a.annotations())
		if !equality.Semantic.DeepEqual(node, obj) {
			_, err = a.cfg.Client.Update(ctx, node, "")
		}
	}
	if err != nil {
		return err
	}
	return a.reportStatus(ctx)
}

// begun says that the node is there, once it knows whose pods it runs and has said so.
func (a *agent) begun(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, leaseEvery)
	defer cancel()
	if to, _ := a.trust.Await(bounded, trust.Serving, trust.Holding); to == trust.Holding {
		if err := a.reportStatus(ctx); err != nil {
			a.cfg.Log.Info("report the node's status", "err", err)
		}
	}
	a.events.Node(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	if a.cfg.Started != nil && a.cfg.TLS != nil {
		a.cfg.Started(a.cfg.Listen)
	}
}

// introduce registers the node with a server that it has just met and does not serve, so that it
// can say so there.
func (a *agent) introduce(ctx context.Context) {
	if !a.stranger.Swap(false) {
		return
	}
	if err := a.register(ctx); err != nil {
		a.cfg.Log.Info("register the node with a server that it does not serve", "err", err)
	}
}

// unregistered is the node as it would be registered, with what pods can use of it.
func (a *agent) unregistered() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: a.cfg.Name, Labels: a.labels()}, Spec: corev1.NodeSpec{Taints: a.cfg.Taints},
		Status: corev1.NodeStatus{Capacity: a.machine.Capacity, Allocatable: a.machine.Allocatable},
	}
}

func (a *agent) labels() map[string]string {
	out := map[string]string{
		corev1.LabelHostname: a.cfg.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(out, a.cfg.Labels)
	return out
}

func (a *agent) annotations() map[string]string {
	out := map[string]string{volumeRoot: a.cfg.VolumeRoot}
	maps.Copy(out, a.cfg.Annotations)
	return out
}

// reportStatus writes the node's status when it has changed, or has not been written for long. It
// also hands the pod range to the runtime once the node has one.
func (a *agent) reportStatus(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	obj, err := a.hub.Get(ctx, objects.Ref{Resource: resource.Nodes, Name: a.cfg.Name})
	if err != nil {
		return err
	}
	node := obj.(*corev1.Node)
	a.heedAccept(node)
	if a.trust.Serves() {
		if err := a.handOverRange(ctx, node); err != nil {
			a.cfg.Log.Warn("hand the pod range to the runtime", "range", nodestate.PodRanges(node), "err", err)
		}
	}
	now := time.Now()
	next := a.status(ctx, node, now)
	if !worthTelling(&node.Status, &next, now) {
		return nil
	}
	patch, err := statusPatch(&node.Status, &next)
	if err != nil {
		return fmt.Errorf("compare the node's status: %w", err)
	}
	_, err = a.cfg.Client.Patch(ctx, object.RefOf(node), types.StrategicMergePatchType, patch, "status")
	return err
}

// renewLease renews the node's lease, made when missing.
func (a *agent) renewLease(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaseEvery)
	defer cancel()
	if err := a.tryLease(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		a.cfg.Log.Warn("renew the node's lease", "err", err)
	}
}

// tryLease renews with one call: the last answer is what the next is made from. A server that has
// the lease as it was left needs no judgement first; any other is told whether the node holds.
func (a *agent) tryLease(ctx context.Context) error {
	now := metav1.NewMicroTime(time.Now())
	if a.lease != nil && (a.lease.Annotations[lineage.Held] == "" || !a.trust.Doubted()) {
		next := a.lease.DeepCopy()
		next.Spec.RenewTime = &now
		a.trust.Mark(next)
		a.routed.Mark(next)
		obj, err := a.cfg.Client.Update(ctx, next, "")
		if err == nil {
			a.renewedLease(obj)
			return nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	a.lease = nil
	if _, err := a.trust.Await(ctx, trust.Serving, trust.Holding); err != nil {
		return nil //nolint:nilerr // there is no server to tell, or none that answers: the follower of pods says so
	}
	obj, err := a.cfg.Client.Get(ctx, resource.Leases, corev1.NamespaceNodeLease, a.cfg.Name)
	if err == nil {
		lease := obj.(*coordinationv1.Lease).DeepCopy()
		lease.Spec.RenewTime = &now
		a.trust.Mark(lease)
		a.routed.Mark(lease)
		obj, err = a.cfg.Client.Update(ctx, lease, "")
	} else if apierrors.IsNotFound(err) {
		obj, err = a.cfg.Client.Create(ctx, a.newLease(ctx, now))
	}
	if err != nil {
		return err
	}
	a.renewedLease(obj)
	return nil
}

func (a *agent) renewedLease(obj client.Object) {
	a.lease = obj.(*coordinationv1.Lease)
	a.trust.Saw(a.lease.ResourceVersion, false)
	a.routed.Told(a.lease)
}

func (a *agent) newLease(ctx context.Context, now metav1.MicroTime) *coordinationv1.Lease {
	holder, duration := a.cfg.Name, int32(leaseDuration)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: a.cfg.Name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &duration, RenewTime: &now},
	}
	a.trust.Mark(lease)
	a.routed.Mark(lease)
	// The lease goes with its node.
	if node, err := a.cfg.Client.Get(ctx, resource.Nodes, "", a.cfg.Name); err == nil {
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: a.cfg.Name, UID: node.GetUID()}}
	}
	return lease
}
