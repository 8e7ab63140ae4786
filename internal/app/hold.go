package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/node/lineage"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// noteRun writes into the cluster, before anybody is served, that a server began at a revision: by that a node knows a
// store that was set back, however far it has come since.
func noteRun(ctx context.Context, api client.Interface, opened uint64) error {
	o, err := api.Get(ctx, resource.Namespaces, "", metav1.NamespaceSystem)
	if err != nil {
		return fmt.Errorf("note in namespace kube-system that a server began: %w", err)
	}
	history := lineage.Begin(o.GetAnnotations()[lineage.History], rand.Text()[:8], opened)
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{lineage.History: history}}})
	if err != nil {
		return err
	}
	if _, err := api.Patch(ctx, object.RefOf(o), types.MergePatchType, body, ""); err != nil {
		return fmt.Errorf("note in namespace kube-system that a server began: %w", err)
	}
	return nil
}

func newNodeAccept() *cobra.Command {
	return &cobra.Command{
		Use:   "accept NAME",
		Short: "Have a node that holds serve the cluster as it is now",
		Long: `A node whose API server has become another cluster's, or knows less than the node has seen,
holds: it keeps its containers and does nothing that the server says. Give the server its right store
back and the node goes on by itself. If the store as it is now is the one to go on with, this command
says so for one node: it serves the cluster as it is, and stops the pods that the cluster does not know.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := dataDir(cmd)
			if err != nil {
				return err
			}
			if _, err := loadConfig(dir); err != nil {
				return err
			}
			return acceptNode(cmd.Context(), cmd.OutOrStdout(), dir, args[0])
		},
	}
}

// acceptNode ends a node's hold by its name: another one, later, needs another word.
func acceptNode(ctx context.Context, out io.Writer, dir DataDir, name string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	api, err := adminClient(dir)
	if err != nil {
		return err
	}
	lease, err := api.Get(ctx, resource.Leases, corev1.NamespaceNodeLease, name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read the lease of node %s: %w", name, err)
	}
	if err != nil || lease.GetAnnotations()[lineage.Held] == "" {
		return fmt.Errorf("node %s does not hold (its lease in %s has no annotation %s): there is nothing to accept",
			name, corev1.NamespaceNodeLease, lineage.Held)
	}
	hold := lease.GetAnnotations()[lineage.Held]
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{lineage.Accept: hold}}})
	if err != nil {
		return err
	}
	ref := object.Ref{Resource: resource.Nodes, Key: object.Key{Name: name}}
	if _, err := api.Patch(ctx, ref, types.MergePatchType, body, ""); err != nil {
		return fmt.Errorf("tell node %s: %w", name, err)
	}
	fmt.Fprintf(out, "Node %s is told to serve the cluster as it is\n", name)
	return nil
}

// holdReason is why a node holds, as its condition says; empty when it does not.
func holdReason(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady || c.Status != corev1.ConditionFalse {
			continue
		}
		switch v := lineage.Verdict(c.Reason); v {
		case lineage.OtherCluster, lineage.ServerKnowsLess, lineage.RecordDamaged:
			return c.Reason
		}
	}
	return ""
}

// holding lists the nodes of this machine that hold.
func holding(ctx context.Context, dir DataDir) ([]*corev1.Node, error) {
	if len(dir.NodeNames()) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	api, err := adminClient(dir)
	if err != nil {
		return nil, err
	}
	nodes, _, err := api.List(ctx, resource.Nodes, client.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask the server for its nodes: %w", err)
	}
	var held []*corev1.Node
	for _, o := range nodes {
		if n, ok := o.(*corev1.Node); ok && holdReason(n) != "" {
			held = append(held, n)
		}
	}
	return held, nil
}

// tellHolds says why each of these nodes holds.
func tellHolds(out io.Writer, nodes []*corev1.Node) {
	for _, n := range nodes {
		if c := nodestate.Condition(n, corev1.NodeReady); c != nil {
			fmt.Fprintf(out, "\nNode %s holds: %s\n", n.Name, c.Message)
		}
	}
}
