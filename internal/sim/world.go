package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"coracle/internal/client/fake"
	"coracle/internal/cluster"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scheduler"
	"coracle/internal/view"
	"coracle/internal/workload"
	"coracle/internal/workload/invariant"
)

// Epoch is when every world begins.
var Epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const ns = "default"

// World is one cluster with its users, nodes and accidents. It is not safe for concurrent use.
type World struct {
	seed     uint64
	rand     *rand.Rand
	now      time.Time
	cluster  *fake.Cluster
	mutation *Mutation
	// has is what the world may contain; peace is when its users no longer want what cannot be.
	has   map[feature]bool
	peace bool

	// truth shows the cluster as it is; logs hold its history kind by kind, as watches tell it.
	truth  *view.View
	pulled uint64
	logs   map[resource.Resource][]fake.Entry

	controllers []plan.Controller
	control     *follower
	core        *loop.Core
	passes      []*pass
	sched       *follower
	stepper     *scheduler.Stepper
	nodes       []*node

	// actor is whose hand is at work: a controller's name, or one of those below.
	actor string
	// fail is the answer to the next call of a controller or the scheduler.
	fail   error
	ctx    context.Context
	trace  []Event
	steps  int
	checks checks
	// broken is the first promise that was.
	broken error
}

// Hands that are no controller's.
const (
	byUser      = "user"
	byNode      = "node"
	byScheduler = "scheduler"
)

// controllers returns those of the product, changed by a mutation if there is one.
func controllers(m *Mutation) []plan.Controller {
	out := cluster.Controllers(cluster.Config{RootCA: "none", PodRange: netip.MustParsePrefix("10.244.0.0/16"), SharedVolumes: "/shared"})
	out = append(out, workload.Controllers()...)
	if m != nil && m.Plan != nil {
		for i, c := range out {
			if c.Name == m.Controller {
				out[i].Plan = func(in plan.Input) plan.Plan { return m.Plan(in, c.Plan(in)) }
			}
		}
	}
	return out
}

// New returns the world of a seed, with its nodes and workloads and nothing done yet. A mutation is a
// defect to find; nil is none.
func New(seed uint64, m *Mutation) *World { return newWorld(seed, m, drawn(seed)) }

func newWorld(seed uint64, m *Mutation, has map[feature]bool) *World {
	w := &World{
		has:  has,
		seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), now: Epoch, mutation: m,
		cluster: fake.New(), logs: map[resource.Resource][]fake.Entry{},
		controllers: controllers(m), ctx: context.Background(),
	}
	w.cluster.Now = func() time.Time { return w.now }
	w.cluster.Fail = w.refuse
	w.cluster.Admit = w.admit
	w.truth = view.New()
	for _, c := range w.controllers {
		w.truth.AddIndexes(c.Indexes...)
	}
	w.checks = newChecks(w)
	w.furnish(rand.New(rand.NewPCG(seed, 0)))
	w.pull()
	w.violate(w.checks.state(w.truth, w.now))
	w.boot()
	return w
}

// boot starts the server: views and queues come from the store.
func (w *World) boot() {
	w.core = loop.NewCore(w.controllers, 16)
	w.core.OnPanic(func(name string, cause any) { w.violate(fmt.Errorf("panic: a watch of %s: %v", name, cause)) })
	w.passes = nil
	v := view.New()
	for _, c := range w.controllers {
		v.AddIndexes(c.Indexes...)
	}
	w.control = w.follow("loop", v, w.core.Resources(), func(ch view.Change) { w.core.Changed(v, ch, w.now) })
	w.core.Pass(w.now.Sub(Epoch))
	w.core.Woke()
	w.core.Start(v)
	sv := view.New()
	w.sched = w.follow("scheduler", sv, scheduler.Resources(), func(view.Change) {})
	w.stepper = scheduler.NewStepper(w.cluster, sv, func(plan.Event) {}, func() time.Time { return w.now })
}

// follower is a consumer of watches, each kind of which lags behind by itself.
type follower struct {
	name  string
	view  *view.View
	kinds []resource.Resource
	at    map[resource.Resource]int
	heed  func(view.Change)
}

func (w *World) follow(name string, v *view.View, kinds []resource.Resource, heed func(view.Change)) *follower {
	f := &follower{name: name, view: v, kinds: kinds, at: map[resource.Resource]int{}, heed: heed}
	for _, res := range kinds {
		w.relist(f, res)
	}
	return f
}

// relist is what follows a lost watch.
func (w *World) relist(f *follower, res resource.Resource) {
	f.at[res] = len(w.logs[res])
	for _, ch := range f.view.Replace(res, w.truth.List(res, ""), w.cluster.Revision()) {
		f.heed(ch)
	}
}

func (w *World) behind(f *follower, res resource.Resource) bool { return f.at[res] < len(w.logs[res]) }

// deliver shows a follower the next change of a kind.
func (w *World) deliver(f *follower, res resource.Resource) {
	e := w.logs[res][f.at[res]]
	f.at[res]++
	f.heed(f.view.Apply(view.Event{Type: e.Type, Resource: res, Object: e.Object, Revision: e.Revision}))
}

// repeat shows a follower the last change of a kind once more.
func (w *World) repeat(f *follower, res resource.Resource) {
	if at := f.at[res]; at > 0 {
		e := w.logs[res][at-1]
		f.heed(f.view.Apply(view.Event{Type: e.Type, Resource: res, Object: e.Object, Revision: e.Revision}))
	}
}

// pull takes in what was written, and holds each write against the promises.
func (w *World) pull() bool {
	if w.cluster.Revision() == w.pulled {
		return false
	}
	entries, _ := w.cluster.Since(w.pulled)
	for _, e := range entries {
		w.logs[e.Resource] = append(w.logs[e.Resource], e)
		w.truth.Apply(view.Event{Type: e.Type, Resource: e.Resource, Object: e.Object, Revision: e.Revision})
		w.pulled = e.Revision
		w.checks.written(e)
	}
	return len(entries) > 0
}

func (w *World) violate(err error) {
	if w.broken == nil && err != nil {
		w.broken = err
	}
}

// as lets a hand do something.
func (w *World) as(actor string, do func()) {
	w.actor = actor
	do()
	if w.pull() {
		w.violate(w.checks.state(w.truth, w.now))
	}
	w.actor = ""
}

// refuse is the cluster's Fail: an accident hits one write of a controller or of the scheduler.
func (w *World) refuse(verb string, ref object.Ref, _ string) error {
	if w.fail == nil || w.actor == byUser || w.actor == byNode || verb == "get" || verb == "list" {
		return nil
	}
	err := w.fail
	w.fail = nil
	return answer(err, verb, ref)
}

func exact(r object.Reader, now time.Time) error {
	return invariant.All(invariant.RolledOut, invariant.SetsExact, invariant.StatefulSetsExact, invariant.DaemonSetsExact,
		invariant.NoOrphans, invariant.OneController, invariant.BudgetsExact, invariant.HistoryKept)(r, now)
}
