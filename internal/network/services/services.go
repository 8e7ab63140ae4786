// Package services writes to the kernel of one node what package proxy has decided, so that services lead to their
// endpoints: in an nftables table of the node's own, by element.
//
// It owns that table, the reading of what an earlier agent left in it, the watch for others who change it, the end of UDP
// connections to endpoints that are gone, and the word to which revision of the cluster it is committed. It refuses
// decisions, the bridge and its routes (package pod), and tables of others: they are not even listed.
package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"coracle/internal/behind"
	"coracle/internal/network/conntrack"
	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
	"coracle/internal/servicerange"
	"coracle/internal/view"
)

// Config says whose services are led where.
type Config struct {
	// Node is the node's name.
	Node string
	// Table names the table, unique on the machine in its family: ip or ip6, that of the ranges.
	Table string
	// Bridge is the link of the node's pods. Links whose names begin with Siblings are those of other nodes of this
	// machine, who see to their pods themselves.
	Bridge, Siblings string
	// Pods is the range of the cluster's pods, Services that of its services, to which the snapshot's ServiceCIDRs may add
	// others. Addresses of these that no service has are refused.
	Pods, Services netip.Prefix
	// API is where this node reaches the API server, when valid; else its endpoints say.
	API netip.AddrPort
	// Snapshot is what is decided on; it is whole once Ready is closed.
	Snapshot *view.View
	Ready    <-chan struct{}
	// Leads, where given, is told which node ports lead to an endpoint from the node itself, and which do so no more, with an
	// address of the node at which they do.
	Leads func(at netip.Addr, port uint16, protocol uint8, leads bool)
	Log   *slog.Logger
}

func (c *Config) check() error {
	switch {
	case c.Node == "", c.Table == "", c.Bridge == "", c.Siblings == "":
		return errors.New("services: Node, Table, Bridge and Siblings must be named")
	case len(c.Bridge) >= unix.IFNAMSIZ || len(c.Siblings) >= unix.IFNAMSIZ:
		return fmt.Errorf("services: Bridge %q, Siblings %q: a link name has at most %d bytes", c.Bridge, c.Siblings, unix.IFNAMSIZ-1)
	case !c.Pods.IsValid() || !c.Services.IsValid() || c.Pods.Addr().Is4() != c.Services.Addr().Is4():
		return fmt.Errorf("services: Pods %s, Services %s: give two ranges of one family", c.Pods, c.Services)
	case c.Snapshot == nil || c.Ready == nil:
		return errors.New("services: Picture and Ready must be given")
	}
	return nil
}

// led is the family of the addresses which are led.
func (c *Config) led() proxy.Family { return proxy.FamilyOf(c.Pods.Addr()) }

func (c *Config) table() nft.Table { return nft.Table{Family: wires[c.led()].table, Name: c.Table} }

// Router leads services. Make it with Open.
type Router struct {
	cfg    Config
	wire   wire
	socket *nft.Owned
	links  *netlink.Handle
	// connections is asked by the goroutine of Run.
	connections *conntrack.Table
	cancel      func()
	changes     changes
	book        *proxy.Book
	node        proxy.Node
	// more are the ranges of services besides that of Config.
	more []netip.Prefix
	// table is what the kernel holds, nil when that is not known.
	table *proxy.Table
	// written counts elements, rebuilt tables written anew.
	written, rebuilt atomic.Int64
	// room is how many bytes a transaction has at most.
	room int
	// wrote, when set, is called after each write to the kernel.
	wrote func()
	left  atomic.Pointer[[]servicerange.Left]
	// right says that the last look was carried out.
	right atomic.Bool
	Progress
}

// Open prepares the router of the network namespace of the calling thread. Nothing is written before Run.
func Open(cfg Config) (*Router, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	socket, err := nft.Own(cfg.table())
	if err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("services: %w", err), socket.Close())
	}
	connections, err := conntrack.Open(netns.None())
	if err != nil {
		links.Close()
		return nil, errors.Join(fmt.Errorf("services: %w", err), socket.Close())
	}
	r := &Router{cfg: cfg, wire: wires[cfg.led()], socket: socket, links: links, connections: connections, book: proxy.NewBook(), room: maxBatch}
	r.changes.init()
	cfg.Snapshot.AddIndexes(behind.Index)
	r.cancel = cfg.Snapshot.Subscribe(r.changes.saw)
	return r, nil
}

// Close lets go of the sockets and leaves the table as it is.
func (r *Router) Close() error {
	r.cancel()
	r.links.Close()
	r.connections.Close()
	return r.socket.Close()
}

// Right says whether the kernel has been given what the snapshot showed when it was last looked at.
func (r *Router) Right() bool { return r.right.Load() }

// Remove removes the tables of a node in the network namespace of the calling thread, if there are any.
func Remove(table string) error {
	for _, v := range wires {
		if err := nft.Remove(nft.Table{Family: v.table, Name: table}); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("services: %w", err)
		}
	}
	return nil
}

// Run keeps the table true to the snapshot until ctx ends, and then leaves it as it is. What is there already, an earlier
// agent's, is changed only where it differs.
func (r *Router) Run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-r.cfg.Ready:
	}
	var others sync.WaitGroup
	watching, cancel := context.WithCancel(ctx)
	defer others.Wait()
	defer cancel()
	others.Go(func() {
		r.socket.Follow(watching, r.cfg.Log, "services", func(bool) { r.changes.damaged() })
	})
	r.changes.everything()
	var pause nft.Pause
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-r.changes.wake:
		}
		work := r.changes.take()
		if err := r.carryOut(ctx, work); err != nil {
			r.cfg.Log.Warn("write the routes of services; trying again", "err", err, "in", pause.Next())
			r.table = nil
			r.right.Store(false)
			r.changes.everything()
			pause.Wait(ctx)
			continue
		}
		pause.Reset()
		r.right.Store(true)
		r.Progress.reached(work.revision)
	}
}
