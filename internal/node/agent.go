package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/filetree"
	"coracle/internal/node/admission"
	"coracle/internal/node/cri"
	"coracle/internal/node/events"
	"coracle/internal/node/machine"
	"coracle/internal/node/names"
	"coracle/internal/node/objects"
	"coracle/internal/node/podfile"
	"coracle/internal/node/pull"
	"coracle/internal/node/routed"
	"coracle/internal/node/snapshot"
	"coracle/internal/node/status"
	"coracle/internal/node/trust"
	"coracle/internal/node/users"
	"coracle/internal/node/volume"
)

// agent is a running node.
type agent struct {
	cfg Config
	// api is the server, whoever it is; cfg.Client is the same behind a guard, and is what all but
	// the node's own signs of life go through.
	api        client.Interface
	trust      *trust.Trust
	podRecords *podfile.Recorder
	users      *users.Book
	cri        *cri.Client
	hub        *objects.Hub
	volumes    *volume.Manager
	events     *events.Recorder
	host       status.Host   // its Scheme is known once the runtime has answered, before the first worker
	names      *names.Server // nil: this node answers for none
	resolving  names.Resolving
	cache      *snapshot.Cache // nil without a snapshot
	machine    machine.Machine
	// surveyed is when the runtime was last asked for its images, answered when it last answered
	// at all (at first: when this agent began); only keepNode touches them.
	surveyed, answered time.Time
	// lease is as last written; one renewal is under way at a time.
	lease *coordinationv1.Lease
	port  int32 // of the HTTP face

	mu       sync.Mutex
	workers  map[types.UID]*worker
	listed   bool // a server has told which pods are this node's
	recalled bool // they are known from the disk
	wg       sync.WaitGroup
	// taking is held while it is found out which pods there are. found is what an earlier agent left on disk, until a server
	// has told of the pods.
	taking  sync.Mutex
	found   []podfile.Entry
	podCIDR string        // as last handed to the runtime
	recheck chan struct{} // asks the registrar to look at the node's state again
	beat    chan struct{} // asks it to renew the lease
	// stranger: a server that the node does not serve has not been told so.
	stranger atomic.Bool
	routed   *routed.Follower
	gate     *admission.Gate
	puller   *pull.Puller
}

// Run is the node until ctx ends. Containers go on when it returns: a later Run finds them again.
// It fails only for what no retry mends: bad configuration, an address in use.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	runtime, err := cri.Dial(cfg.RuntimeSocket)
	if err != nil {
		return err
	}
	defer runtime.Close()
	cfg.fence()
	return run(ctx, cfg, runtime)
}

// fence keeps what pods leave in their volumes from being run as programs of the node's. That is the second line: the
// first is that others cannot enter the directory, so that a node without a fence is told of, and works.
func (c *Config) fence() {
	for _, dir := range []string{c.podsDir(), c.VolumeRoot, c.SharedVolumes} {
		if dir == "" {
			continue
		}
		switch err := volume.Fence(dir); {
		case errors.Is(err, volume.ErrInUse):
			c.Log.Info("volumes are mounted without nosuid until the node starts without pods", "dir", dir, "err", err)
		case err != nil:
			c.Log.Warn("volumes are mounted without nosuid", "dir", dir, "err", err)
		}
	}
}

// run is Run with a runtime already reached.
func run(ctx context.Context, cfg Config, runtime *cri.Client) error {
	ctx = client.WithManager(ctx, "kubelet")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, err := newAgent(ctx, cfg, runtime)
	if err != nil {
		return err
	}
	face, err := a.listen()
	if err != nil {
		return err
	}
	var loops sync.WaitGroup
	for _, loop := range []func(context.Context){
		a.keepNode, a.followRuntime, a.followPods, a.followPeers, a.followVolumes, a.standAlone, a.events.Run, face,
	} {
		loops.Go(func() { loop(ctx) })
	}
	loops.Go(func() { a.routed.Follow(ctx, a.renewNow) })
	if a.names != nil {
		loops.Go(func() { a.names.Run(ctx) })
	}
	if a.cache != nil {
		loops.Go(func() { a.cache.Run(ctx) })
		loops.Go(func() { snapshot.Follow(ctx, a.cfg.Client, a.trust, a.cfg.Name, a.cfg.Snapshot, a.cfg.SnapshotReady) })
	}
	over := make(chan struct{})
	keeping, kept := context.WithCancel(context.WithoutCancel(ctx))
	go func() { defer close(over); a.podRecords.Run(keeping) }()
	<-ctx.Done()
	loops.Wait()
	a.wg.Wait()
	kept()
	<-over
	a.trust.Close()
	return nil
}

func newAgent(ctx context.Context, cfg Config, runtime *cri.Client) (*agent, error) {
	for _, path := range []string{cfg.podsDir(), cfg.logRoot(), cfg.linksDir(), cfg.seccompDir()} {
		dir, err := filetree.MakeDir(path, 0o755)
		if err != nil {
			return nil, fmt.Errorf("node: %w", err)
		}
		dir.Close()
	}
	known, err := trust.Open(cfg.Name, cfg.Dir, cfg.Log)
	if err != nil {
		return nil, err
	}
	records, found, err := podfile.OpenRecorder(cfg.knownDir(), cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	book, err := users.Open(cfg.UsersBook, cfg.Dir, cfg.UserIDs)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	api := cfg.Client
	cfg.Client = trust.Guard(api, known)
	a := &agent{
		cfg: cfg, api: api, trust: known, podRecords: records, found: found, users: book, cri: runtime, workers: map[types.UID]*worker{}, answered: time.Now(),
		recheck: make(chan struct{}, 1), beat: make(chan struct{}, 1),
		hub:    objects.NewHub(ctx, cfg.Client, cfg.Log),
		events: events.New(cfg.Client, cfg.Name, cfg.Log, known.Holding),
		host:   status.Host{IPs: texts(cfg.NodeIPs)},
	}
	a.machine = machine.Read(cfg.Dir, cfg.MaxPods, cfg.Version, cfg.Capacity)
	if cfg.Snapshot != nil {
		if a.cache, err = snapshot.OpenCache(cfg.snapshotDir(), cfg.Snapshot, cfg.Log); err != nil {
			return nil, fmt.Errorf("node: %w", err)
		}
	}
	a.gate = admission.New(admission.Config{Node: cfg.Name, API: api, Hub: a.hub, New: a.unregistered})
	a.puller = &pull.Puller{Client: cfg.Client, Runtime: runtime, Events: a.events, Pulled: a.lookAgain}
	a.routed = routed.New(routed.Config{Snapshot: cfg.Snapshot, Ready: cfg.SnapshotReady, Routed: cfg.Routed, Await: cfg.AwaitRouted})
	if cfg.Names != nil {
		n := names.Node{Name: cfg.Name, Domain: cfg.ClusterDomain, Snapshot: cfg.Snapshot, Events: a.events, Log: cfg.Log}
		if cfg.Isolation != nil {
			n.At = cfg.Isolation.Names
		}
		a.names = names.New(*cfg.Names, n)
	}
	a.resolving = names.Resolving{Domain: cfg.ClusterDomain, Servers: cfg.ClusterDNS, Server: a.names, Log: cfg.Log}
	a.volumes, err = volume.New(volume.Config{
		Pods: cfg.podsDir(), Root: cfg.VolumeRoot, SharedRoot: cfg.SharedVolumes, Node: cfg.Name, Client: cfg.Client, Hub: a.hub,
		Allocatable: func() corev1.ResourceList { return a.machine.Allocatable },
		PodLogs:     cfg.podLogs(),
		Changed:     a.volumesChanged, Log: cfg.Log, Offline: func() bool { return !known.Serves() },
	})
	return a, err
}

// listen opens the HTTP face and returns the loop that serves it.
func (a *agent) listen() (func(context.Context), error) {
	if a.cfg.TLS == nil {
		if a.cfg.Started != nil {
			a.cfg.Started("")
		}
		return func(ctx context.Context) { <-ctx.Done() }, nil
	}
	l, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("node: Listen %s: %w", a.cfg.Listen, err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return nil, err
	}
	a.port = int32(n)
	return a.serve(l), nil
}

// volumesChanged tells a pod's worker that an object its volumes show has changed.
func (a *agent) volumesChanged(uid types.UID) {
	if w := a.worker(uid); w != nil {
		w.tell(func() {
			w.remount = true
			w.forgetFailure("volumes")
		})
	}
}

func (a *agent) worker(uid types.UID) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[uid]
}

func (a *agent) allWorkers() []*worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*worker, 0, len(a.workers))
	for _, w := range a.workers {
		out = append(out, w)
	}
	return out
}
