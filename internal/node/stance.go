package node

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/node/lineage"
	"coracle/internal/node/trust"
	"coracle/internal/resource"
)

// meetServer judges the server that has just answered with a list at a revision. The list comes first: a server
// replaced in between is then found out by what follows.
func (a *agent) meetServer(ctx context.Context, revision string) (trust.Stance, error) {
	at, err := strconv.ParseUint(revision, 10, 64)
	if err != nil {
		return trust.Unsure, fmt.Errorf("the revision of this node's pods: %w", err)
	}
	ns, err := a.api.Get(ctx, resource.Namespaces, "", metav1.NamespaceSystem)
	if err != nil {
		return trust.Unsure, fmt.Errorf("which cluster is this (its namespace kube-system tells): %w", err)
	}
	met := lineage.Server{Cluster: ns.GetUID(), Revision: at, History: ns.GetAnnotations()[lineage.History]}
	lease, err := a.api.Get(ctx, resource.Leases, corev1.NamespaceNodeLease, a.cfg.Name)
	switch {
	case err == nil:
		met.Held = lease.GetAnnotations()[lineage.Held]
	case !apierrors.IsNotFound(err):
		return trust.Unsure, fmt.Errorf("this node's lease: %w", err)
	}
	to, news := a.trust.Meet(met)
	a.trust.Keep(time.Now())
	if news {
		a.tellStance(to)
	}
	return to, nil
}

// tellStance says what has become of the node's trust: in the log, as an event, and in its condition.
func (a *agent) tellStance(to trust.Stance) {
	if to == trust.Serving {
		a.cfg.Log.Info("the API server is the one whose pods this node runs: going on")
		a.events.Node(corev1.EventTypeNormal, "ServerRecognized", "The API server is the one whose pods this node runs: going on")
	} else {
		reason, message := a.trust.Holds()
		a.cfg.Log.Error("this node holds", "reason", reason, "message", message)
		a.events.Node(corev1.EventTypeWarning, reason, message)
		a.stranger.Store(true)
	}
	a.renewNow()
	a.lookAgain()
}

// holdOut waits until the server's connection breaks, or its administrator has it accepted. Nothing it says is heard.
func (a *agent) holdOut(ctx context.Context, opts client.ListOptions) error {
	w, err := a.api.Watch(ctx, resource.Pods, opts)
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	defer w.Stop()
	for {
		now, _, changed := a.trust.Now()
		if now != trust.Holding {
			return nil
		}
		select {
		case _, open := <-w.ResultChan():
			if !open {
				return nil
			}
		case <-changed:
		}
	}
}

// heedAccept ends a hold that the node's administrator has ended.
func (a *agent) heedAccept(node *corev1.Node) {
	if a.trust.Accept(node.Annotations[lineage.Accept]) {
		a.cfg.Log.Warn("this node serves the API server as it is, as its administrator asked: what that does not know is stopped")
		a.events.Node(corev1.EventTypeNormal, "ServerAccepted", "The node serves the API server as it is, as its administrator asked")
	}
}
