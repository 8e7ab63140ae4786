// Package names answers for the cluster's names on a node, by its snapshot, and says how the node's pods resolve names. It
// owns where the server stands and which pod asks from which address; what names mean is package dns's. It refuses to look
// anything up in the API.
package names

import (
	"context"
	"log/slog"
	"net/netip"
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
	"coracle/internal/node/events"
	"coracle/internal/node/locked"
	"coracle/internal/node/snapshot"
	"coracle/internal/nodestate"
	"coracle/internal/pause"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
	"coracle/internal/view"
)

// Config says how the node answers for names.
type Config struct {
	// Ranges are the cluster's, of pods and of services.
	Ranges []netip.Prefix
	// Forward are the servers of single domains, or of all.
	Forward dns.Routes
	// Shelf keeps the sockets while no agent runs; nil: they end with the agent.
	Shelf serve.Shelf
}

// Node is the node that answers.
type Node struct {
	Name string
	// Domain is the cluster's.
	Domain string
	// Snapshot is what the names are answered by.
	Snapshot *view.View
	// At, when set, is told where names are answered, whenever that changes.
	At     func(netip.Addr)
	Events *events.Recorder
	Log    *slog.Logger
}

// hostResolvConf is how the machine resolves names.
const hostResolvConf = "/etc/resolv.conf"

// Server is the node's name server: at the first address of its pod range, which its pods reach without any translation
// of addresses. It answers from the snapshot.
type Server struct {
	cfg    Config
	node   Node
	server *serve.Server
	up     *upstream.Resolver
	state  locked.Value[state]
	wg     sync.WaitGroup
}

// state is where the server stands, and who asks it.
type state struct {
	ctx    context.Context // of the agent's run; nil until it has begun
	at     netip.Addr
	served netip.Addr         // the address at which sockets are open, or are tried to be
	stop   context.CancelFunc // closes them
	places map[types.UID]netip.Addr
}

// New makes the name server of a node from what its snapshot shows. It serves once it runs, and the node has a pod range.
func New(cfg Config, node Node) *Server {
	n := &Server{cfg: cfg, node: node}
	n.state.Do(func(s *state) { s.places = map[types.UID]netip.Addr{} })
	zone := dns.New(dns.Config{Domain: node.Domain, Ranges: cfg.Ranges})
	n.up = upstream.New(upstream.Config{Routes: cfg.Forward, ResolvConf: hostResolvConf, Ours: n.ours, Log: node.Log})
	n.server = serve.New(serve.Config{Zone: zone, Upstream: n.up, Log: node.Log})
	node.Snapshot.Subscribe(n.changed)
	// What the snapshot shows already was recalled from the disk.
	for _, res := range snapshot.Kinds {
		for _, obj := range node.Snapshot.List(res, "") {
			n.changed(view.Change{Resource: res, After: obj, Revision: view.RevisionOf(obj)})
		}
	}
	if obj, ok := node.Snapshot.Get(resource.Nodes, "", node.Name); ok {
		n.ServeIn(obj.(*corev1.Node))
	}
	return n
}

func (n *Server) ours(a netip.Addr) bool {
	at := n.address()
	return at.IsValid() && a == at
}

func (n *Server) address() netip.Addr {
	return locked.Get(&n.state, func(s *state) netip.Addr { return s.at })
}

// ranges are the cluster's own, those of the ServiceCIDRs among them.
func (n *Server) ranges() []netip.Prefix {
	out := slices.Clone(n.cfg.Ranges)
	for _, o := range n.node.Snapshot.List(resource.ServiceCIDRs, "") {
		if c := o.(*networkingv1.ServiceCIDR); servicerange.Holds(c) {
			out = append(out, servicerange.Of(c)...)
		}
	}
	return out
}

// changed brings the zone in line with the snapshot.
func (n *Server) changed(ch view.Change) {
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

// Run serves until ctx ends, and then answers what it has begun.
func (n *Server) Run(ctx context.Context) {
	n.state.Do(func(s *state) {
		s.ctx = ctx
		n.serve(s)
	})
	<-ctx.Done()
	n.state.Do(func(s *state) { s.ctx = nil })
	n.wg.Wait()
	n.up.Wait()
}

// ServeIn has the names served at the address that a node has in its pod range, once the agent runs.
func (n *Server) ServeIn(node *corev1.Node) {
	p, err := netip.ParsePrefix(ipv4Range(node))
	if err != nil {
		return
	}
	at := p.Masked().Addr().Next()
	same := locked.Get(&n.state, func(s *state) bool {
		same := s.at == at
		s.at = at
		return same
	})
	if same {
		return
	}
	n.server.Change(func(z *dns.Zone) { z.Serve(at) })
	if n.node.At != nil {
		n.node.At(at)
	}
	n.state.Do(n.serve)
}

// serve serves at the node's address, and no more at another.
func (n *Server) serve(s *state) {
	at := s.at
	if s.ctx == nil || !at.IsValid() || s.served == at {
		return
	}
	if s.stop != nil {
		s.stop()
	}
	s.served = at
	ctx, cancel := context.WithCancel(s.ctx)
	s.stop = cancel
	n.wg.Go(func() { n.keepServing(ctx, netip.AddrPortFrom(at, dns.Port)) })
}

// keepServing serves at an address, and tries until it may.
func (n *Server) keepServing(ctx context.Context, at netip.AddrPort) {
	wait := time.Second
	for told := false; ; {
		udp, tcp, err := serve.Open(n.cfg.Shelf, at)
		if udp != nil && tcp != nil {
			if err != nil {
				n.node.Log.Warn("questions will be lost while the agent restarts", "err", err)
			}
			n.node.Log.Info("names are answered", "address", at)
			n.server.Serve(ctx, udp, tcp)
			return
		}
		if !told {
			told = true
			n.node.Log.Error("the cluster's names are not answered on this node", "address", at, "err", err)
			n.node.Events.Node(corev1.EventTypeWarning, "DNSNotServed", "Cluster names are not answered on this node: "+err.Error())
		}
		if !pause.For(ctx, wait) {
			return
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// Meet notes from which address a pod asks, and in which domains it looks for names; an address that is not valid is that of
// a pod that has none. searches is called when that is new.
func (n *Server) Meet(uid types.UID, at netip.Addr, searches func() []string) {
	known := locked.Get(&n.state, func(s *state) bool {
		was, known := s.places[uid]
		return known && was == at || !known && !at.IsValid()
	})
	if !known {
		n.know(uid, at, searches())
	}
}

// Forget forgets a pod.
func (n *Server) Forget(uid types.UID) { n.know(uid, netip.Addr{}, nil) }

// know notes which pod has an address; one that is not valid is that of a pod that has none.
func (n *Server) know(uid types.UID, at netip.Addr, searches []string) {
	n.state.Do(func(s *state) {
		if was, known := s.places[uid]; known {
			delete(s.places, uid)
			if !s.taken(was) {
				n.server.Know(was, nil)
			}
		}
		if !at.IsValid() {
			return
		}
		s.places[uid] = at
		if searches == nil {
			n.server.Know(at, nil)
			return
		}
		n.server.Know(at, &dns.Asker{Searches: searches})
	})
}

// taken says whether some pod has an address.
func (s *state) taken(at netip.Addr) bool {
	for _, other := range s.places {
		if other == at {
			return true
		}
	}
	return false
}

// ipv4Range is the IPv4 range of a node's pods, which each pod has an address of; empty when there is none.
func ipv4Range(n *corev1.Node) string {
	for _, text := range nodestate.PodRanges(n) {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			return text
		}
	}
	return ""
}
