package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"coracle/internal/network/healthcheck"
	"coracle/internal/network/proxy"
	"coracle/internal/network/relay"
	"coracle/internal/network/services"
	"coracle/internal/runtime/podnet"
	"coracle/internal/servicerange"
	"coracle/internal/view"
)

func servicesTable(cfg ClusterConfig, name string) string {
	return "coracle-services-" + nodeID(cfg, name)
}

// routings are how a node leads the traffic of services, in each family.
func routings(cfg ClusterConfig, name string, snapshot *view.View, ready <-chan struct{}, log *slog.Logger) []services.Config {
	four := services.Config{
		Node: name, Table: servicesTable(cfg, name), Bridge: podnet.Bridge(nodeID(cfg, name)), Siblings: podnet.Bridges,
		Pods: cfg.PodCIDR, Services: cfg.ServiceCIDR, API: apiFor(cfg.Listen), Snapshot: snapshot, Ready: ready, Log: log,
	}
	if !cfg.Dual() {
		return []services.Config{four}
	}
	six := four
	six.Pods, six.Services = cfg.PodCIDR6, cfg.ServiceCIDR6
	return []services.Config{four, six}
}

// apiFor is where the nodes of this machine reach a server that listens at a loopback address: pods cannot, but what they
// send to the kubernetes service can be led there. It is not valid where the server can be reached by its endpoint.
func apiFor(listen string) netip.AddrPort {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return netip.AddrPort{}
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	a, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || !a.Addr().IsLoopback() {
		return netip.AddrPort{}
	}
	return a
}

// ways are how a node is reached as services are: by the kernel, at ::1, and by load balancers that ask for its health.
type ways struct {
	routers []*services.Router
	relay   *relay.Relay
	health  *healthcheck.Server
	links   *netlink.Handle
}

func openWays(families []services.Config) (*ways, error) {
	cfg := families[0]
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	w := &ways{relay: relay.New(cfg.Log, nil), links: links}
	for _, one := range families {
		one.Leads = func(at netip.Addr, port uint16, protocol uint8, leads bool) {
			if protocol != proxy.SCTP {
				w.relay.Set(relay.Port{Number: port, UDP: protocol == proxy.UDP}, at, leads)
			}
		}
		router, err := services.Open(one)
		if err != nil {
			links.Close()
			return nil, err
		}
		w.routers = append(w.routers, router)
	}
	w.health = healthcheck.New(healthcheck.Config{
		Node: cfg.Node, Snapshot: cfg.Snapshot, Ready: cfg.Ready, Routed: w.right, Here: healthcheck.Machine(links, cfg.Siblings), Log: cfg.Log,
	})
	return w, nil
}

// right says whether the kernel has been given all, in each family.
func (w *ways) right() bool {
	return !slices.ContainsFunc(w.routers, func(r *services.Router) bool { return !r.Right() })
}

// leftAlone says which ranges of services the node leaves alone, in words.
func (w *ways) leftAlone() string {
	var all []servicerange.Left
	for _, r := range w.routers {
		all = append(all, r.LeftAlone()...)
	}
	return servicerange.Message(all)
}

// committed is how far all families have come, and a channel that is closed when the one that is behind has come further.
func (w *ways) committed() (revision uint64, later <-chan struct{}) {
	for i, r := range w.routers {
		if at, more := r.Committed(); i == 0 || at < revision {
			revision, later = at, more
		}
	}
	return revision, later
}

// run serves them until ctx ends, and leaves what the kernel was told.
func (w *ways) run(ctx context.Context) {
	var parts sync.WaitGroup
	for _, r := range w.routers {
		parts.Go(func() { r.Run(ctx) })
	}
	parts.Go(func() { w.health.Run(ctx) })
	parts.Wait()
	w.relay.Close()
	w.links.Close()
}
