package node

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/dns"
	"coracle/internal/dns/serve"
	"coracle/internal/dns/upstream"
	"coracle/internal/node/container"
	"coracle/internal/node/pause"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
	"coracle/internal/view"
)

// NamesConfig says how the node answers for names.
type NamesConfig struct {
	// Ranges are the cluster's, of pods and of services.
	Ranges []netip.Prefix
	// Forward are the servers of single domains, or of all.
	Forward dns.Routes
	// Shelf keeps the sockets while no agent runs; nil: they end with the agent.
	Shelf serve.Shelf
}

// hostResolvConf is how the machine resolves names.
const hostResolvConf = "/etc/resolv.conf"

// names is the node's name server: at the first address of its pod range, which its pods reach without any translation
// of addresses. It answers from the agent's snapshot.
type names struct {
	a      *agent
	server *serve.Server
	up     *upstream.Resolver

	mu     sync.Mutex
	ctx    context.Context // of the agent's run; nil until it has begun
	at     netip.Addr
	served netip.Addr         // the address at which sockets are open, or are tried to be
	stop   context.CancelFunc // closes them
	places map[types.UID]netip.Addr
	wg     sync.WaitGroup
}

func newNames(a *agent) *names {
	n := &names{a: a, places: map[types.UID]netip.Addr{}}
	cfg := a.cfg.Names
	zone := dns.New(dns.Config{Domain: a.cfg.ClusterDomain, Ranges: cfg.Ranges})
	n.up = upstream.New(upstream.Config{
		Routes: cfg.Forward, ResolvConf: hostResolvConf, Ours: n.ours, Log: a.cfg.Log,
	})
	n.server = serve.New(serve.Config{Zone: zone, Upstream: n.up, Log: a.cfg.Log})
	a.cfg.Snapshot.Subscribe(n.changed)
	// What the snapshot shows already was recalled from the disk.
	for _, res := range snapshotKinds {
		for _, obj := range a.cfg.Snapshot.List(res, "") {
			n.changed(view.Change{Resource: res, After: obj, Revision: view.RevisionOf(obj)})
		}
	}
	n.serveIn(a.nodeRange())
	return n
}

func (n *names) ours(a netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at.IsValid() && a == n.at
}

// ranges are the cluster's own, those of the ServiceCIDRs among them.
func (n *names) ranges() []netip.Prefix {
	out := slices.Clone(n.a.cfg.Names.Ranges)
	for _, o := range n.a.cfg.Snapshot.List(resource.ServiceCIDRs, "") {
		if c := o.(*networkingv1.ServiceCIDR); servicerange.Holds(c) {
			out = append(out, servicerange.Of(c)...)
		}
	}
	return out
}

// changed brings the zone in line with the snapshot.
func (n *names) changed(ch view.Change) {
	if ch.Resource == resource.ServiceCIDRs {
		ranges := n.ranges()
		n.server.Change(func(z *dns.Zone) { z.Claim(ranges...) })
		return
	}
	if ch.Resource != resource.Services && ch.Resource != resource.EndpointSlices {
		return
	}
	n.server.Change(func(z *dns.Zone) {
		defer z.Saw(ch.Revision)
		switch after := ch.After.(type) {
		case *corev1.Service:
			z.SetService(after)
			return
		case *discoveryv1.EndpointSlice:
			z.SetSlice(after)
			return
		}
		if ch.Before == nil {
			return
		}
		key := dns.Key{Namespace: ch.Before.GetNamespace(), Name: ch.Before.GetName()}
		if ch.Resource == resource.Services {
			z.DeleteService(key)
		} else {
			z.DeleteSlice(key)
		}
	})
}

// run serves until ctx ends, and then answers what it has begun.
func (n *names) run(ctx context.Context) {
	n.mu.Lock()
	n.ctx = ctx
	n.mu.Unlock()
	n.serve()
	<-ctx.Done()
	n.mu.Lock()
	n.ctx = nil
	n.mu.Unlock()
	n.wg.Wait()
	n.up.Wait()
}

// serveIn has the names served at the address that the node has in a pod range, once the agent runs.
func (n *names) serveIn(cidr string) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return
	}
	at := p.Masked().Addr().Next()
	n.mu.Lock()
	same := n.at == at
	n.at = at
	n.mu.Unlock()
	if same {
		return
	}
	n.server.Change(func(z *dns.Zone) { z.Serve(at) })
	if n.a.cfg.Isolation != nil {
		n.a.cfg.Isolation.Names(at)
	}
	n.serve()
}

// serve serves at the node's address, and no more at another.
func (n *names) serve() {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := n.at
	if n.ctx == nil || !at.IsValid() || n.served == at {
		return
	}
	if n.stop != nil {
		n.stop()
	}
	n.served = at
	ctx, cancel := context.WithCancel(n.ctx)
	n.stop = cancel
	n.wg.Go(func() { n.keepServing(ctx, netip.AddrPortFrom(at, dns.Port)) })
}

// keepServing serves at an address, and tries until it may.
func (n *names) keepServing(ctx context.Context, at netip.AddrPort) {
	wait := time.Second
	for told := false; ; {
		udp, tcp, err := serve.Open(n.a.cfg.Names.Shelf, at)
		if udp != nil && tcp != nil {
			if err != nil {
				n.a.cfg.Log.Warn("questions will be lost while the agent restarts", "err", err)
			}
			n.a.cfg.Log.Info("names are answered", "address", at)
			n.server.Serve(ctx, udp, tcp)
			return
		}
		if !told {
			told = true
			n.a.cfg.Log.Error("the cluster's names are not answered on this node", "address", at, "err", err)
			n.a.events.Node(corev1.EventTypeWarning, "DNSNotServed", "Cluster names are not answered on this node: "+err.Error())
		}
		if !pause.For(ctx, wait) {
			return
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// servers are what pods have in their resolv.conf.
func (n *names) servers() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.at.IsValid() {
		return nil
	}
	return []string{n.at.String()}
}

// resolving is how pods that are made now resolve names.
func (a *agent) resolving() container.DNS {
	d := container.DNS{Domain: a.cfg.ClusterDomain, Servers: a.cfg.ClusterDNS}
	if len(d.Servers) == 0 && a.names != nil {
		d.Servers = a.names.servers()
	}
	// The machine's file may change as it moves between networks; one that is missing says nothing.
	raw, err := os.ReadFile(hostResolvConf)
	if err != nil && !os.IsNotExist(err) {
		a.cfg.Log.Warn("read how the machine resolves names", "err", err)
	}
	d.Host = container.ParseResolvConf(string(raw))
	return d
}

// meet tells the name server who asks from a pod's address. Call it with w.mu held.
func (w *worker) meet() {
	n := w.a.names
	if n == nil || w.pod.Spec.HostNetwork {
		return
	}
	var at netip.Addr
	for _, ip := range w.facts().PodIPs {
		if a, err := netip.ParseAddr(ip); err == nil && a.Is4() && !w.gone {
			at = a // it asks at an IPv4 address, from its own
		}
	}
	n.mu.Lock()
	was, known := n.places[w.uid]
	n.mu.Unlock()
	if known && was == at || !known && !at.IsValid() {
		return
	}
	n.know(w.uid, at, w.a.resolving().Searches(w.pod))
}

// know notes which pod has an address; one that is not valid is that of a pod that has none.
func (n *names) know(uid types.UID, at netip.Addr, searches []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if was, known := n.places[uid]; known {
		delete(n.places, uid)
		n.forget(was)
	}
	if !at.IsValid() {
		return
	}
	n.places[uid] = at
	if searches == nil {
		n.server.Know(at, nil)
		return
	}
	n.server.Know(at, &dns.Asker{Searches: searches})
}

// forget forgets an address, unless another pod has it by now. Call it with n.mu held.
func (n *names) forget(at netip.Addr) {
	for _, other := range n.places {
		if other == at {
			return
		}
	}
	n.server.Know(at, nil)
}

// nodeRange finds the node's pod range in the snapshot: the IPv4 one, which each pod has an address of.
func (a *agent) nodeRange() string {
	if obj, ok := a.cfg.Snapshot.Get(resource.Nodes, "", a.cfg.Name); ok {
		return rangeOfNames(obj.(*corev1.Node))
	}
	return ""
}

func rangeOfNames(n *corev1.Node) string {
	for _, text := range rangesOf(n) {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			return text
		}
	}
	return ""
}
