package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/simnode"
	"coracle/internal/virtual"
	"coracle/internal/workload/invariant"
)

// epoch is when every world begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const ns = "default"

// rootCA stands for the certificate of the cluster's authority.
const rootCA = "trust"

// world is a virtual cluster with its users and accidents. It is not safe for concurrent use.
type world struct {
	*virtual.Cluster
	api      client.Interface
	seed     uint64
	rand     *rand.Rand
	mutation *mutation
	// controllers are the product's, with the mutation.
	controllers []plan.Controller
	// has is what the world may contain; peace is when its users no longer want what cannot be.
	has   map[feature]bool
	peace bool
	// begun is the revision with which it began.
	begun uint64
	// small is how far a small world has come; nil in worlds drawn by chance.
	small *small

	// actor is whose hand wrote last: a controller's name, or one of package virtual's.
	actor string
	// fail is the answer to the next call of a controller or the scheduler.
	fail   error
	ctx    context.Context
	trace  []event
	steps  int
	checks checks
	// broken is the first promise that was.
	broken error
}

// newWorld returns the world of a seed, with its nodes and workloads and nothing done yet. A mutation is a defect to
// find; nil is none.
func newWorld(seed uint64, m *mutation, has map[feature]bool) *world {
	w := &world{has: has, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), mutation: m, ctx: context.Background()}
	trust := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": rootCA}}
	w.begin(m.controllers(virtual.Controllers([]object.Object{trust})), virtual.Config{Start: epoch, Behavior: w.behavior, Beats: true})
	w.as(virtual.User, func() { w.setUp(rand.New(rand.NewPCG(seed, 0))) })
	w.Restart()
	w.begun = w.Revision()
	return w
}

// begin makes the cluster, with the promises and the mutation.
func (w *world) begin(controllers []plan.Controller, cfg virtual.Config) {
	w.checks = newChecks(w)
	m := w.mutation
	cfg.Hooks = virtual.Hooks{
		Wrote: w.wrote, Acted: func() { w.violate(w.checks.state(w.Truth(), w.Now())) },
		Fail: w.refuse, Decided: w.decided, Applying: w.applying, Action: m.action, Outcome: m.outcome,
		Stating: w.checks.meant.stating, Panicked: w.violate, Ran: w.checks.ran,
	}
	if m != nil {
		cfg.Scheduler, cfg.Bill, cfg.Uncorrected, cfg.Unheard = m.Scheduler, m.Bill, m.Uncorrected, m.Unheard
	}
	w.controllers, cfg.Controllers = controllers, controllers
	w.Cluster = virtual.New(cfg)
	w.api = w.API()
}

func (w *world) restart() { w.restartAt(w.Revision()) }

// restartAt has the server's processes begin anew with lists of a revision.
func (w *world) restartAt(revision uint64) {
	w.checks.ends.restarted = w.Now()
	w.checks.reads(revision < w.Revision())
	w.RestartAt(revision)
}

func (w *world) wrote(wr virtual.Write) {
	w.actor = wr.By
	w.checks.written(wr.Entry)
}

func (w *world) decided(t loop.Task, p plan.Plan) {
	w.violate(w.checks.plan(w.Control().View(), t.Controller, t.Key, p, w.Now()))
}

func (w *world) applying(by string, a plan.Action) {
	w.actor = by
	w.checks.applying(a)
}

func (w *world) violate(err error) {
	if w.broken == nil && err != nil {
		w.broken = err
	}
}

// as lets a hand do something.
func (w *world) as(by string, do func()) { w.As(by, func(context.Context) { do() }) }

// refuse implements virtual.Hooks.Fail: an accident hits one write of a controller or of the scheduler.
func (w *world) refuse(by, verb string, ref object.Ref) error {
	if w.fail == nil || by == virtual.User || by == virtual.Node || verb == "get" || verb == "list" {
		return nil
	}
	err := w.fail
	w.fail = nil
	if apierrors.IsConflict(err) && verb == "update" {
		return apierrors.NewConflict(ref.Resource.GroupResource(), ref.Name, fmt.Errorf("the object has been modified"))
	}
	return apierrors.NewInternalError(fmt.Errorf("an accident"))
}

// delay is how long a pod takes for something, the same whatever else happens.
func (w *world) delay(pod *corev1.Pod, what string, most int) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(pod.UID + types.UID(what)))
	return time.Duration((h.Sum64()^w.seed*0x9E3779B97F4A7C15)%uint64(most*1000)) * time.Millisecond
}

// behavior implements virtual.Config.Behavior: by a pod's image it cannot be pulled, or works; how long it takes is chance.
func (w *world) behavior(pod *corev1.Pod, _ *corev1.Node) simnode.Behavior {
	b := simnode.Behavior{ReadyAfter: w.delay(pod, "ready", 5), StopAfter: w.delay(pod, "end", 4)}
	if start := w.delay(pod, "start", 6); start < 3*time.Second {
		b.StartAfter = start
	}
	if strings.HasPrefix(pod.Spec.Containers[0].Image, "bad") {
		b.PullError = "no such image"
	}
	return b
}

func exact(r object.Reader, now time.Time) error {
	return invariant.All(invariant.RolledOut, invariant.SetsExact, invariant.StatefulSetsExact, invariant.DaemonSetsExact,
		invariant.NoOrphans, invariant.OneController, invariant.BudgetsExact, invariant.HistoryKept)(r, now)
}
