// Package virtual is a cluster that runs in virtual time and without chance: the production planners, loop, scheduler
// and admission over a cluster in memory, on nodes that play their pods' lives.
//
// It owns the order of things: at each instant the nodes do what is due, then every decision that is due is made and
// carried out, then the scheduler places pods, until nothing is left to do; then the clock jumps to the next moment at
// which something is due. The same start and the same wishes give the same history, write by write. It
// refuses accidents and races, which package sim looks for, and decisions of its own.
package virtual

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/apiserver/admit"
	"coracle/internal/client"
	"coracle/internal/client/fake"
	"coracle/internal/cluster"
	"coracle/internal/cluster/nodelife"
	"coracle/internal/loop"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scheduler"
	"coracle/internal/simnode"
	"coracle/internal/view"
	"coracle/internal/workload"
	"coracle/internal/workload/diagnose"
)

// Config is what a cluster begins with.
type Config struct {
	// Start is the first instant, in whole seconds.
	Start time.Time
	// Objects are the cluster's, as its API showed them. They are not changed.
	Objects []plan.Object
	// Failed names nodes that lose their power at the start.
	Failed map[string]bool
	// Behavior says how a pod fares on a node.
	Behavior func(*corev1.Pod, *corev1.Node) simnode.Behavior
	// Wrote, when set, is told each write in order: whose it was, and when.
	Wrote func(Write)
	// Refused, when set, is told each refusal of the virtual API but conflicts.
	Refused func(Refusal)
}

// Write is one write to the cluster.
type Write struct {
	fake.Entry
	At time.Time
	// By is a controller's name, or one of the hands below.
	By string
	// Because is the controller's reason, where it gave one.
	Because string
}

// Refusal is an answer of the API that is an error.
type Refusal struct {
	At  time.Time
	By  string
	Ref plan.Ref
	Err error
}

// Hands that are no controller's.
const (
	User      = "user"
	Node      = "node"
	Scheduler = "scheduler"
)

// Cluster is a virtual cluster. It is not safe for concurrent use.
type Cluster struct {
	cfg       Config
	now       time.Time
	store     *fake.Cluster
	api       *api
	picture   *view.View
	core      *loop.Core
	stepper   *scheduler.Stepper
	nodes     *nodes
	pulled    uint64
	by        string
	because   string
	alarms    alarms
	decisions int
}

// alarms are things that somebody outside wants done at some instant.
type alarms []alarm

type alarm struct {
	at time.Time
	do func()
}

// New returns a cluster at its first instant, at which nothing has been decided yet.
func New(cfg Config) *Cluster {
	c := &Cluster{cfg: cfg, now: cfg.Start, store: fake.New(), picture: view.New(diagnose.Indexes()...)}
	c.store.Now = func() time.Time { return c.now }
	c.store.Load(cfg.Objects...)
	c.pulled = c.store.Revision()
	c.api = &api{Cluster: c.store, of: c}
	c.api.chain = admit.New(lookup{c.api})
	controllers := controllersFor(cfg)
	for _, ctl := range controllers {
		c.picture.AddIndexes(ctl.Indexes...)
	}
	c.core = loop.NewCore(controllers, 16)
	c.nodes = newNodes(c)
	for _, res := range cluster.Kinds() {
		objects, _, _ := c.store.List(context.Background(), res, client.ListOptions{})
		for _, ch := range c.picture.Replace(res, objects, c.pulled) {
			c.core.Changed(c.picture, ch)
		}
	}
	c.core.Start(c.picture)
	hearts(c.core, cfg)
	c.stepper = scheduler.NewStepper(c.api, c.picture, func(plan.Event) {}, func() time.Time { return c.now })
	c.nodes.adopt()
	return c
}

// controllersFor returns the product's controllers, configured as the cluster's own seem to be.
func controllersFor(cfg Config) []plan.Controller {
	ca, pods := "", netip.MustParsePrefix("10.244.0.0/16")
	for _, o := range cfg.Objects {
		switch o := o.(type) {
		case *corev1.ConfigMap:
			if ca == "" && o.Name == "kube-root-ca.crt" {
				ca = o.Data["ca.crt"]
			}
		case *corev1.Node:
			if p, err := netip.ParsePrefix(o.Spec.PodCIDR); err == nil && p.Addr().Is4() && p.Bits() > 16 && o.Annotations[nodelife.HeartbeatLease] == "" {
				pods = netip.PrefixFrom(p.Addr(), 16).Masked()
			}
		}
	}
	out := cluster.Controllers(cluster.Config{RootCA: ca, PodRange: pods, SharedVolumes: "/"})
	return append(out, workload.Controllers()...)
}

// Now is the present instant.
func (c *Cluster) Now() time.Time { return c.now }

// Effort is how many decisions the controllers have made, and how many writes everybody.
func (c *Cluster) Effort() (decisions, writes int) { return c.decisions, int(c.pulled - c.nodes.first) }

// Picture is the cluster as it is, with the indexes that decisions and explanations need.
func (c *Cluster) Picture() plan.Reader { return c.picture }

// Said returns what the controllers said last about an object.
func (c *Cluster) Said(res resource.Resource, key plan.Key) []loop.Explanation {
	return c.core.Why(res, key)
}

// Do lets the user do something through the API, which it is given.
func (c *Cluster) Do(wish func(context.Context, client.Interface) error) error {
	var err error
	c.as(User, "", func(ctx context.Context) { err = wish(ctx, c.api) })
	return err
}

// At has something done at an instant, before anything else that is due then.
func (c *Cluster) At(at time.Time, do func()) { c.alarms = append(c.alarms, alarm{at, do}) }

// as lets a hand act, and takes in what it wrote.
func (c *Cluster) as(by, because string, do func(context.Context)) {
	c.by, c.because = by, because
	do(client.WithManager(context.Background(), by))
	c.pull()
}

// pull takes in what was written.
func (c *Cluster) pull() {
	for c.store.Revision() != c.pulled {
		entries, _ := c.store.Since(c.pulled)
		for _, e := range entries {
			c.pulled = e.Revision
			ch := c.picture.Apply(view.Event{Type: e.Type, Resource: e.Resource, Object: e.Object, Revision: e.Revision})
			c.core.Changed(c.picture, ch)
			c.nodes.hear(e)
			if c.cfg.Wrote != nil {
				c.cfg.Wrote(Write{Entry: e, At: c.now, By: c.by, Because: c.because})
			}
		}
	}
}

// ErrBusy says that there is no end to what is to be done at one instant.
type ErrBusy struct {
	At        time.Time
	Decisions int
}

func (e *ErrBusy) Error() string {
	return fmt.Sprintf("the controllers do not come to rest: %d decisions were made at one instant (this is a defect: please report it)", e.Decisions)
}

// patience is how many decisions an instant may take, besides so many for each object there is.
const patience, patienceEach = 10_000, 50

// Settle does everything that is due at this instant.
func (c *Cluster) Settle() error {
	c.ring()
	c.core.Wake(c.now)
	limit := patience + patienceEach*(len(c.cfg.Objects)+int(c.pulled-c.nodes.first))
	for began := c.decisions; ; {
		busy := c.nodes.act()
		for t, ok := c.core.Next(); ok; t, ok = c.core.Next() {
			busy = true
			c.decide(t)
			if c.decisions-began > limit {
				return &ErrBusy{c.now, c.decisions - began}
			}
		}
		if c.place() {
			busy = true
		}
		if !busy {
			return nil
		}
	}
}

// place lets the scheduler decide for every pod that is due.
func (c *Cluster) place() bool {
	busy := false
	for c.stepper.Due() {
		busy = true
		c.stepper.Step(context.Background())
		for len(c.stepper.Effects()) > 0 {
			c.as(Scheduler, "", func(ctx context.Context) { c.stepper.Run(ctx, c.stepper.Effects()[0]) })
		}
	}
	return busy
}

// ring does what was asked for this instant.
func (c *Cluster) ring() {
	rest := c.alarms
	c.alarms = nil
	for _, a := range rest {
		if a.at.After(c.now) {
			c.alarms = append(c.alarms, a)
		} else {
			a.do()
		}
	}
}

// Next is the next instant at which something is due; false when there is none.
func (c *Cluster) Next() (time.Time, bool) {
	var next time.Time
	sooner := func(at time.Time) {
		if at.After(c.now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if at, ok := c.core.NextTimer(); ok {
		sooner(at)
	}
	sooner(c.stepper.Next())
	sooner(c.nodes.next())
	for _, a := range c.alarms {
		sooner(a.at)
	}
	return next, !next.IsZero()
}

// Advance moves the clock on. It never goes back.
func (c *Cluster) Advance(to time.Time) {
	if to.After(c.now) {
		c.now = to
		c.core.Pass(to.Sub(c.cfg.Start))
	}
}
