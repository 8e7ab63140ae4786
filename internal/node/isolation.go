package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/node/trust"
	"coracle/internal/pause"
)

// Isolation governs the node's pods by network policies. Its methods may be called at any time.
type Isolation interface {
	// Note tells of a pod with the addresses of its sandbox.
	Note(pod *corev1.Pod, ips []string)
	// Stand waits until a pod's rules stand, or for ctx; then it says what is lacking.
	Stand(ctx context.Context, pod *corev1.Pod, ips []string) error
	// Leave takes back what was told of a pod, before its addresses are given to others.
	Leave(ctx context.Context, pod *corev1.Pod)
	// Names tells where the node's name server is.
	Names(at netip.Addr)
	// Settle tells that Note was called for all pods that an earlier agent left.
	Settle()
	// Alone tells that no server will tell of policies soon.
	Alone()
}

const (
	// isolationTime bounds the wait for a pod's rules; then its start fails, and is tried again.
	isolationTime = 10 * time.Second
	// leaveTime bounds the wait for a pod's rules to be taken back: its addresses are not known any more soon after.
	leaveTime = 2 * time.Second
	// isolationSlow is when the pod's user is told that it waits.
	isolationSlow = 2 * time.Second
)

// notIsolated is the reason of the event, and of the containers, of a pod whose rules do not stand yet.
const notIsolated = "NetworkPolicyNotReady"

// followPeers has the isolation told of the cluster, by servers whose word counts.
func (a *agent) followPeers(ctx context.Context) {
	if a.cfg.Isolation == nil {
		return
	}
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		if _, err := a.trust.Await(ctx, trust.Serving); err != nil {
			return
		}
		begin := time.Now()
		if err := a.listenToPeers(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Info("the server tells no more of network policies", "err", err)
		}
		if time.Since(begin) > lastPeersPause {
			wait = 50 * time.Millisecond
		}
		pause.For(ctx, wait)
		wait = min(2*wait, lastPeersPause)
	}
}

const lastPeersPause = time.Second

// listenToPeers listens for as long as the server is the one that the node serves.
func (a *agent) listenToPeers(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now, _, changed := a.trust.Now()
	if now != trust.Serving {
		return nil
	}
	a.wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-changed:
			cancel()
		}
	})
	return a.cfg.FollowPeers(ctx)
}

// isolate waits until a pod's rules stand, before a container of it may run.
func (w *worker) isolate(ctx context.Context, pod *corev1.Pod, sandbox string) error {
	if w.a.cfg.Isolation == nil || pod.Spec.HostNetwork {
		return nil
	}
	w.mu.Lock()
	var ips []string
	if box := w.world.Newest(); box != nil && box.ID == sandbox {
		ips = box.IPs
	}
	w.mu.Unlock()
	if len(ips) == 0 {
		return errors.New("the pod's sandbox has no address that network policies could govern")
	}
	soon, cancel := context.WithTimeout(ctx, isolationSlow)
	err := w.a.cfg.Isolation.Stand(soon, pod, ips)
	cancel()
	if err == nil || ctx.Err() != nil {
		return err
	}
	w.a.events.Pod(pod, "", corev1.EventTypeWarning, notIsolated, "The pod's containers wait for its network policies: "+err.Error())
	late, cancel := context.WithTimeout(ctx, isolationTime-isolationSlow)
	defer cancel()
	if err := w.a.cfg.Isolation.Stand(late, pod, ips); err != nil {
		return fmt.Errorf("the pod's network policies do not stand: %w", err)
	}
	return nil
}

// govern tells the isolation of the pod as it is now. Call it with w.mu held.
func (w *worker) govern() {
	if w.a.cfg.Isolation == nil || w.gone || w.left || w.pod.Spec.HostNetwork {
		return
	}
	if box := w.world.Newest(); box != nil && box.Ready && len(box.IPs) > 0 {
		w.a.cfg.Isolation.Note(w.pod, box.IPs)
	}
}

// release takes back the rules of a pod whose sandbox is to be stopped.
func (w *worker) release(ctx context.Context, pod *corev1.Pod) {
	if w.a.cfg.Isolation == nil {
		return
	}
	w.mu.Lock()
	w.left = true
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	w.a.cfg.Isolation.Leave(ctx, pod)
}

// settle tells the isolation once every pod that there was when this agent began has been looked at.
func (a *agent) settle(ctx context.Context) {
	if a.cfg.Isolation == nil {
		return
	}
	workers := a.allWorkers()
	a.wg.Go(func() {
		for _, w := range workers {
			select {
			case <-ctx.Done():
				return
			case <-w.looked:
			}
		}
		a.cfg.Isolation.Settle()
	})
}
