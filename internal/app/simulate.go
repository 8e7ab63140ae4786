package app

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/client"
	"coracle/internal/cluster"
	"coracle/internal/nodestate"
	"coracle/internal/resource"
	"coracle/internal/simnode"
)

const (
	// mostSimulated is how many simulated nodes have a range of pod addresses: see
	// cluster.Controllers.
	mostSimulated = 16384
	// simulateAtOnce is how many of them are made at a time.
	simulateAtOnce = 32
)

// simulate makes what is missing of n simulated nodes, and returns the names of those that are
// to become ready. Which exist is for the API to say: nothing of them is kept elsewhere.
func simulate(ctx context.Context, dir DataDir, n int) (names []string, err error) {
	if n == 0 {
		return nil, nil
	}
	api, err := adminClient(dir)
	if err != nil {
		return nil, err
	}
	nodes, _, err := api.List(ctx, resource.Nodes, client.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask the server for its nodes: %w", err)
	}
	missing, names := missingSimulated(nodes, n)
	cfg, err := loadConfig(dir)
	if err != nil {
		return nil, err
	}
	ranges := make([]string, len(missing)) // in a cluster of two families the server gives them
	if !cfg.Dual() {
		ranges = freeRanges(nodes, len(missing))
	}
	create := make([]*corev1.Node, len(missing))
	for i, name := range missing {
		create[i] = simnode.NewNode(name, ranges[i])
	}
	return append(names, missing...), createSimulated(ctx, api, create)
}

// freeRanges returns n ranges of pod addresses from the upper half of the simulated nodes' range
// that no node has. Where those do not suffice, the last are empty: the server finds others.
func freeRanges(nodes []client.Object, n int) []string {
	taken := map[string]bool{}
	for _, o := range nodes {
		taken[o.(*corev1.Node).Spec.PodCIDR] = true
	}
	out := make([]string, n)
	whole := cluster.SimulatedRange.Addr().As4()
	first := binary.BigEndian.Uint32(whole[:])
	size := uint32(1) << (32 - cluster.SimulatedRange.Bits())
	at := size / 2
	for i := range out {
		for ; at < size && out[i] == ""; at += 256 {
			binary.BigEndian.PutUint32(whole[:], first+at)
			if cidr := netip.PrefixFrom(netip.AddrFrom4(whole), 24).String(); !taken[cidr] {
				out[i] = cidr
			}
		}
	}
	return out
}

func createSimulated(ctx context.Context, api client.Interface, nodes []*corev1.Node) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, simulateAtOnce)
	var all sync.WaitGroup
	for _, node := range nodes {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			if _, err := api.Create(ctx, node); err != nil && !apierrors.IsAlreadyExists(err) {
				cancel(fmt.Errorf("create simulated node %s: %w", node.Name, err)) // the first one counts
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// missingSimulated names the simulated nodes to be made so that there are n, and those that there
// are already, apart from those that are meant to be silent.
func missingSimulated(nodes []client.Object, n int) (missing, present []string) {
	taken := map[string]bool{}
	have := 0
	for _, o := range nodes {
		node := o.(*corev1.Node)
		taken[node.Name] = true
		if !nodestate.Simulated(node) {
			continue
		}
		have++
		if !simnode.Silent(node) {
			present = append(present, node.Name)
		}
	}
	for i := 0; have < n; i++ {
		if name := fmt.Sprintf("sim-%04d", i); !taken[name] {
			missing = append(missing, name)
			have++
		}
	}
	return missing, present
}

// some names the first of many.
func some(names []string) string {
	const shown = 10
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}
