// Package cluster gathers the controllers that keep the cluster itself in order, workloads aside.
//
// It owns the list of them and what they need to be told; each lives in a room of its own below.
// It refuses decisions of its own.
package cluster

import (
	"net/netip"
	"slices"

	"coracle/internal/cluster/account"
	"coracle/internal/cluster/aggregation"
	"coracle/internal/cluster/balancer"
	"coracle/internal/cluster/disruption"
	"coracle/internal/cluster/endpoint"
	"coracle/internal/cluster/garbage"
	"coracle/internal/cluster/namespace"
	"coracle/internal/cluster/nodelife"
	"coracle/internal/cluster/serviceip"
	"coracle/internal/cluster/usage"
	"coracle/internal/cluster/volume"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Config is what the controllers need to know besides the cluster's objects.
type Config struct {
	// RootCA is the PEM certificate of the cluster's authority, published in each namespace.
	RootCA string
	// PodRange is cut into ranges of NodeBits (0 means 24) for the nodes.
	PodRange netip.Prefix
	NodeBits int
	// PodRange6, when valid, is that of the pods' IPv6 addresses, which come first with First6.
	PodRange6 netip.Prefix
	First6    bool
	// SharedVolumes is the directory, the same on every node, that holds the volumes of the
	// shared class.
	SharedVolumes string
}

// SimulatedRange is where simulated nodes get their ranges of pod addresses: the shared address
// space (RFC 6598), which neither this machine's networks nor the cluster's own lie in. It is
// enough for 16,384 nodes. They are given from its lower end; who makes many nodes at once may
// give them ranges of its upper half himself, which spares a write for each.
var SimulatedRange = netip.MustParsePrefix("100.64.0.0/10")

// SimulatedRange6 is the same of IPv6, in a cluster of both families: addresses of nobody (RFC 4193).
var SimulatedRange6 = netip.MustParsePrefix("fd73:696d::/48")

// Controllers returns every controller of the cluster, for loop to run.
func Controllers(cfg Config) []plan.Controller {
	var out []plan.Controller
	out = append(out, nodelife.Controllers(nodelife.Config{
		PodRange: cfg.PodRange, NodeBits: cfg.NodeBits, SimulatedRange: SimulatedRange,
		PodRange6: cfg.PodRange6, SimulatedRange6: SimulatedRange6, First6: cfg.First6,
	})...)
	out = append(out, account.Controllers(cfg.RootCA)...)
	out = append(out, namespace.Controller(resource.All()))
	out = append(out, volume.Controllers(volume.Config{SharedRoot: cfg.SharedVolumes})...)
	out = append(out, endpoint.Controllers()...)
	out = append(out, balancer.Controller())
	out = append(out, serviceip.Controllers(serviceip.Config{Taken: takenRanges(cfg), IPv6: cfg.PodRange6.IsValid()})...)
	out = append(out, disruption.Controllers()...)
	out = append(out, usage.Controller())
	out = append(out, aggregation.Controller())
	out = append(out, garbage.Controllers(owned())...)
	return out
}

// takenRanges are those that no service may have addresses of.
func takenRanges(cfg Config) []netip.Prefix {
	out := []netip.Prefix{SimulatedRange}
	if cfg.PodRange.IsValid() {
		out = append(out, cfg.PodRange)
	}
	if cfg.PodRange6.IsValid() {
		out = append(out, cfg.PodRange6, SimulatedRange6)
	}
	return out
}

// owned lists the kinds that owners are looked for among: all but events, which have none.
func owned() []resource.Resource {
	return slices.DeleteFunc(resource.All(), func(res resource.Resource) bool { return res == resource.Events })
}
