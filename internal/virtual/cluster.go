// Package virtual is a cluster in one goroutine and in virtual time: the production planners, loop, scheduler, views and
// admission over a cluster in memory, on machines that live by the model of package simnode.
//
// It owns what could happen now: a watch that tells, a decision, one of its actions, a step of the scheduler, something
// that a machine does for a pod, a heartbeat. It refuses to choose among them, which is what sim does by chance and
// rehearse by order, to judge what came of it, and decisions of its own: what a controller does is what production does.
package virtual

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/apiserver/admit"
	"coracle/internal/client"
	"coracle/internal/client/fake"
	"coracle/internal/cluster"
	"coracle/internal/cluster/nodelife"
	"coracle/internal/drain"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
	"coracle/internal/resource"
	"coracle/internal/scheduler"
	"coracle/internal/simnode"
	"coracle/internal/view"
	"coracle/internal/workload"
	"coracle/internal/workload/diagnose"
)

// Config is what a cluster begins with, and who is told what.
type Config struct {
	// Start is the first instant, in whole seconds.
	Start time.Time
	// Objects are the cluster's, as its API showed them. They are not changed.
	Objects []object.Object
	// Controllers are those that run.
	Controllers []plan.Controller
	// Behavior says how a pod fares on a node.
	Behavior func(*corev1.Pod, *corev1.Node) simnode.Behavior
	// Prompt has every watch tell each write at once: nobody lags.
	Prompt bool
	// Steady has names and UIDs depend on little: see fake.Cluster.Steady.
	Steady bool
	// Beats has machines renew their leases; without it somebody must vouch for them.
	Beats bool
	Hooks
}

// Hooks are called when something happens; all may be nil.
type Hooks struct {
	// Wrote is told each write in order: whose it was, and when. Acted is told that a hand that wrote is done.
	Wrote func(Write)
	Acted func()
	// Refused is told each refusal of the API that a controller met, but conflicts.
	Refused func(Refusal)
	// Fail is asked before each call whether it is to fail; its error is the call's answer.
	Fail func(by, verb string, ref object.Ref) error
	// Decided is told each decision before it is carried out, Applying each action of it.
	Decided  func(loop.Task, plan.Plan)
	Applying func(by string, a plan.Action)
	// Stating is told each status before it is written: it may be that of a second decision, made after a failure.
	Stating func(by string, status object.Object)
	// Action may alter an action, Outcome what the loop is told of a pass: defects are put in there.
	Action  func(plan.Action) plan.Action
	Outcome func(loop.Task, *loop.Outcome)
	// Scheduler may alter what the scheduler reaches the API by, Bill what a create is charged.
	Scheduler func(client.Interface) client.Interface
	Bill      func([]quota.Item) []quota.Item
	// Uncorrected has the API take a quota's count as its controller gives it, and Unheard says which changes that a list
	// shows nobody is told of: defects, too.
	Uncorrected bool
	Unheard     func(before, after object.Object) bool
	// Panicked is told of a planner or a watch that panicked.
	Panicked func(error)
	// Ran is told when a pod's containers begin to run on a machine, and when they no longer do.
	Ran func(machine string, pod *corev1.Pod, runs bool)
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
	Ref object.Ref
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
	cfg   Config
	now   time.Time
	store *fake.Cluster
	api   *api
	// truth shows the cluster as it is; logs hold its history kind by kind, as watches tell it.
	truth   *view.View
	logs    map[resource.Resource]*history
	pulled  uint64
	first   uint64
	by      string
	because string

	control  *Follower
	core     *loop.Core
	passes   []*Pass
	sched    *Follower
	stepper  *scheduler.Stepper
	machines machines
	effort   int
}

// Controllers returns the product's, configured as those of the cluster that the objects are from seem to be.
func Controllers(objects []object.Object) []plan.Controller {
	ca, pods := "", netip.MustParsePrefix("10.244.0.0/16")
	for _, o := range objects {
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

// New returns a cluster at its first instant, with no machine yet and at which nothing has been decided.
func New(cfg Config) *Cluster {
	c := &Cluster{cfg: cfg, now: cfg.Start, store: fake.New(), truth: view.New(diagnose.Indexes()...),
		logs: map[resource.Resource]*history{}, machines: newMachines()}
	c.store.Now, c.store.Steady = func() time.Time { return c.now }, cfg.Steady
	c.store.Load(unled(cfg.Objects)...)
	c.pulled = c.store.Revision()
	c.first = c.pulled
	if cfg.Fail != nil {
		c.store.Fail = func(verb string, ref object.Ref, _ string) error { return cfg.Fail(c.by, verb, ref) }
	}
	c.api = &api{Cluster: c.store, of: c}
	c.api.chain = admit.New(lookup{c.api})
	for _, ctl := range cfg.Controllers {
		c.truth.AddIndexes(ctl.Indexes...)
	}
	for _, res := range resource.All() {
		objects, _, _ := c.store.List(context.Background(), res, client.ListOptions{})
		c.truth.Replace(res, objects, c.pulled)
	}
	c.Restart()
	return c
}

// Restart has the server's processes begin anew: what they know, and what they had set going, is gone.
func (c *Cluster) Restart() { c.RestartAt(c.pulled) }

// RestartAt has them begin from lists of the past, as of a source that lags behind: they know of what came after that
// revision, and of what they did themselves, when their watches tell.
func (c *Cluster) RestartAt(revision uint64) {
	for _, h := range c.logs {
		h.readers = nil
	}
	c.passes = nil
	c.restartControl(revision)
	sv := view.New()
	c.sched = c.follow("scheduler", sv, scheduler.Resources(), revision, func(view.Change) {})
	var api client.Interface = c.api
	if c.cfg.Scheduler != nil {
		api = c.cfg.Scheduler(api)
	}
	c.stepper = scheduler.NewStepper(api, sv, func(plan.Event) {}, func() time.Time { return c.now })
}

// Now is the present instant.
func (c *Cluster) Now() time.Time { return c.now }

// Effort is how many decisions the controllers have made, and how many writes everybody.
func (c *Cluster) Effort() (decisions, writes int) { return c.effort, int(c.pulled - c.first) }

// Truth is the cluster as it is, with the indexes that decisions and explanations need.
func (c *Cluster) Truth() *view.View { return c.truth }

// Revision is that of the last write.
func (c *Cluster) Revision() uint64 { return c.pulled }

// API is the API as clients see it. Who writes through it does so within As.
func (c *Cluster) API() client.Interface { return c.api }

// As lets a hand act, and takes in what it wrote.
func (c *Cluster) As(by string, do func(context.Context)) { c.as(by, "", do) }

func (c *Cluster) as(by, because string, do func(context.Context)) {
	c.by, c.because = by, because
	do(client.WithManager(context.Background(), by))
	wrote := c.pull()
	c.by, c.because = "", ""
	if wrote && c.cfg.Acted != nil {
		c.cfg.Acted()
	}
}

// pull takes in what was written.
func (c *Cluster) pull() bool {
	if c.store.Revision() == c.pulled {
		return false
	}
	for c.store.Revision() != c.pulled {
		entries, _ := c.store.Since(c.pulled)
		for _, e := range entries {
			c.pulled = e.Revision
			c.truth.Apply(view.Event{Type: e.Type, Resource: e.Resource, Object: e.Object, Revision: e.Revision})
			h := c.history(e.Resource)
			h.entries = append(h.entries, e)
			if c.cfg.Prompt {
				h.tell()
			}
			c.address(e)
			if c.cfg.Wrote != nil {
				c.cfg.Wrote(Write{Entry: e, At: c.now, By: c.by, Because: c.because})
			}
		}
	}
	return true
}

// Next is the next instant at which something is due that is not yet; false when there is none.
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
	sooner(c.machines.next())
	if c.cfg.Beats {
		for _, m := range c.machines.list {
			if m.Alive() {
				sooner(m.beat)
			}
		}
	}
	return next, !next.IsZero()
}

// Advance moves the clock on. It never goes back.
func (c *Cluster) Advance(to time.Time) {
	if to.After(c.now) {
		c.now = to
	}
	c.core.Pass(c.now.Sub(c.cfg.Start))
	c.core.Wake(c.now)
	c.machines.ripen(c.now)
}

func (c *Cluster) panicked(format string, args ...any) {
	if c.cfg.Panicked != nil {
		c.cfg.Panicked(fmt.Errorf(format, args...))
	}
}

// unled are objects whose nodes do not say how far they lead connections: they lead none here, and nobody is to wait for that.
func unled(objects []object.Object) []object.Object {
	out := slices.Clone(objects)
	for i, o := range out {
		if lease, ok := o.(*coordinationv1.Lease); ok && lease.Annotations[drain.Routed] != "" {
			lease = lease.DeepCopy()
			delete(lease.Annotations, drain.Routed)
			out[i] = lease
		}
	}
	return out
}
