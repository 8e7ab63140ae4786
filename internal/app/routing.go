package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"coracle/internal/network/healthcheck"
	"coracle/internal/network/proxy"
	"coracle/internal/network/relay"
	"coracle/internal/network/services"
	"coracle/internal/runtime"
	"coracle/internal/view"
)

func servicesTable(cfg ClusterConfig, name string) string {
	return "coracle-services-" + nodeID(cfg, name)
}

// routing is how a node leads the traffic of services.
func routing(cfg ClusterConfig, name string, picture *view.View, ready <-chan struct{}, log *slog.Logger) services.Config {
	return services.Config{
		Node: name, Table: servicesTable(cfg, name), Bridge: runtime.Bridge(nodeID(cfg, name)), Siblings: runtime.Bridges,
		Pods: cfg.PodCIDR, Services: cfg.ServiceCIDR, API: apiFor(cfg.Listen), Picture: picture, Ready: ready, Log: log,
	}
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
	router *services.Router
	relay  *relay.Relay
	health *healthcheck.Server
	links  *netlink.Handle
}

func openWays(cfg services.Config) (*ways, error) {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	w := &ways{relay: relay.New(cfg.Log, nil), links: links}
	cfg.Leads = func(port uint16, protocol uint8, leads bool) {
		if protocol != proxy.SCTP {
			w.relay.Set(relay.Port{Number: port, UDP: protocol == proxy.UDP}, leads)
		}
	}
	if w.router, err = services.Open(cfg); err != nil {
		links.Close()
		return nil, err
	}
	w.health = healthcheck.New(healthcheck.Config{
		Node: cfg.Node, Picture: cfg.Picture, Ready: cfg.Ready, Routed: w.router.Right, Here: healthcheck.Machine(links, cfg.Siblings), Log: cfg.Log,
	})
	return w, nil
}

// run serves them until ctx ends, and leaves what the kernel was told.
func (w *ways) run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { w.router.Run(ctx) })
	parts.Go(func() { w.health.Run(ctx) })
	parts.Wait()
	w.relay.Close()
	w.links.Close()
}
