// Package isolation has the kernel of one node hold what package policy decides, so that network policies govern its pods: in
// an nftables table of the node's own, by element.
//
// It owns that table, the reading of what an earlier agent left in it, the watch for others who change it, and the word when
// a pod's rules stand. It is told of the node's own pods by the agent, of all others and of policies by the server (package
// peers), and keeps the policies on disk for a start without a server. It refuses decisions, and tables of others: they are
// not even listed.
//
// It governs addresses of one family: where pods have two, there is an Isolation for each (Families).
//
// There is a table while the cluster has any policy. Then what comes from the bridge or goes there without belonging to a
// pod that is known is dropped: a pod has no connection before its rules stand.
package isolation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/network/conntrack"
	"coracle/internal/network/nft"
	"coracle/internal/network/policy"
	"coracle/internal/peers"
)

// Config says whose pods are governed.
type Config struct {
	// Node is the node's name.
	Node string
	// Table names the table, unique on the machine in its family: ip, or ip6 with IPv6.
	Table string
	// IPv6 governs the pods' IPv6 addresses, and no others; else IPv4 ones.
	IPv6 bool
	// Bridge is the link of the node's pods.
	Bridge string
	// Aliases are addresses at which pods reach the node by another.
	Aliases []policy.Alias
	// Dir is where policies are kept for a start without a server.
	Dir string
	Log *slog.Logger
}

func (c *Config) check() error {
	switch {
	case c.Node == "", c.Table == "", c.Bridge == "", c.Dir == "":
		return errors.New("isolation: Node, Table, Bridge and Dir must be named")
	case len(c.Bridge) >= unix.IFNAMSIZ:
		return fmt.Errorf("isolation: Bridge %q: a link name has at most %d bytes", c.Bridge, unix.IFNAMSIZ-1)
	}
	return nil
}

func (c *Config) table() nft.Table { return nft.Table{Family: c.wire().table, Name: c.Table} }

func (c *Config) wire() wire {
	if c.IPv6 {
		return wire6
	}
	return wire4
}

// Isolation governs a node's pods. Make it with Open; its methods may be called at any time from any goroutine.
type Isolation struct {
	cfg    Config
	wire   wire
	socket *nft.Owned
	// connections is asked by the goroutine of Run.
	connections *conntrack.Table
	inbox
	// state is that of the goroutine of Run.
	state
	// written counts elements, rebuilt tables written anew.
	written, rebuilt atomic.Int64
}

// Open prepares the isolation of pods in the network namespace of the calling thread. Nothing is written before Run.
func Open(cfg Config) (*Isolation, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	socket, err := nft.Own(cfg.table())
	if err != nil {
		return nil, fmt.Errorf("isolation: %w", err)
	}
	connections, err := conntrack.Open(netns.None())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("isolation: %w", err), socket.Close())
	}
	i := &Isolation{cfg: cfg, wire: cfg.wire(), socket: socket, connections: connections}
	i.inbox.init()
	i.state.init(cfg)
	return i, nil
}

// Close lets go of the sockets and leaves the table as it is.
func (i *Isolation) Close() error {
	i.connections.Close()
	return i.socket.Close()
}

// Remove removes the tables of a node in the network namespace of the calling thread, if there are any.
func Remove(table string) error {
	for _, v := range []wire{wire4, wire6} {
		if err := nft.Remove(nft.Table{Family: v.table, Name: table}); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("isolation: %w", err)
		}
	}
	return nil
}

// Run keeps the table true to what it is told until ctx ends, and then leaves it as it is. It begins when a server has told
// of the whole cluster (OnChange), or when there is none (Alone).
func (i *Isolation) Run(ctx context.Context) {
	var others sync.WaitGroup
	watching, cancel := context.WithCancel(ctx)
	defer others.Wait()
	defer cancel()
	others.Go(func() {
		// What was missed is looked for by reading the table, what was seen ends it.
		i.socket.Follow(watching, i.cfg.Log, "network policies", func(missed bool) {
			i.put(func(s *state) { s.damaged, s.held = s.damaged || !missed, nil })
		})
	})
	var pause nft.Pause
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.wake:
		}
		changes, upTo := i.take()
		for _, change := range changes {
			change(&i.state)
		}
		stands, err := i.carryOut()
		if err == nil {
			pause.Reset()
			if stands {
				i.reached(upTo)
			}
			continue
		}
		if i.failed(err); !pause.First() {
			i.damaged = true // what is in the table is not what it says: it is written anew, whole
		}
		i.cfg.Log.Warn("write the rules of network policies; trying again", "err", err, "in", pause.Next())
		i.held = nil
		pause.Wait(ctx)
		i.nudge()
	}
}

// OnChange takes in what a server tells of the cluster.
func (i *Isolation) OnChange(m *peers.Message) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case m.Begin:
		i.story, i.begun = nil, true
	case m.End:
		story := i.story
		i.story, i.begun = nil, false
		i.marks = map[types.UID]uint64{}
		for _, part := range story {
			i.mark(part)
		}
		i.alone = false
		i.append(func(s *state) { s.applyAll(story) })
	case i.begun:
		i.story = append(i.story, m)
	default:
		i.mark(m)
		i.append(func(s *state) { s.apply(m) })
	}
}

// Names has policies for the name server mean the node's own, at an address.
func (i *Isolation) Names(at netip.Addr) {
	i.put(func(s *state) { s.book.Pod(policy.NameServer(at)) })
}

// Settle says that every pod of the node is known by now: other addresses are nobody's.
func (i *Isolation) Settle() {
	i.put(func(s *state) { s.settled, s.held = true, nil })
}

// Alone says that no server will tell soon: what is known from the disk holds.
func (i *Isolation) Alone() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.alone = true
	i.append(func(s *state) { s.recall() })
}

// Note takes in a pod of the node as it is now, with the addresses of its sandbox.
func (i *Isolation) Note(pod *corev1.Pod, ips []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.note(pod, ips)
}

// Stand waits until the rules for a pod of the node stand, as policies were when the pod was bound to it. It fails at the end
// of ctx, and says what is lacking.
func (i *Isolation) Stand(ctx context.Context, pod *corev1.Pod, ips []string) error {
	if len(ips) == 0 || pod.Spec.HostNetwork {
		return nil
	}
	i.mu.Lock()
	at := i.note(pod, ips)
	for {
		marked, known := i.marks[pod.UID]
		if (known || i.alone) && i.done >= max(at, marked) {
			i.mu.Unlock()
			return nil
		}
		lacking := i.lacking(known)
		moved := i.moved
		i.mu.Unlock()
		select {
		case <-ctx.Done():
			return lacking
		case <-moved:
		}
		i.mu.Lock()
	}
}

// Leave forgets a pod whose sandbox goes, before its address is given to another. It waits for the kernel to have done so, or
// for ctx.
func (i *Isolation) Leave(ctx context.Context, pod *corev1.Pod) {
	i.mu.Lock()
	key := policy.Key{Namespace: pod.Namespace, Name: pod.Name}
	if known, ok := i.local[key]; !ok || known.uid != pod.UID {
		i.mu.Unlock()
		return
	}
	delete(i.local, key)
	at := i.append(func(s *state) { s.leave(key) })
	for i.done < at && ctx.Err() == nil {
		moved := i.moved
		i.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-moved:
		}
		i.mu.Lock()
	}
	i.mu.Unlock()
}
