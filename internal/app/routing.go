package app

import (
	"log/slog"
	"net"
	"net/netip"

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
