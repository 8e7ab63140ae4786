package loop

import (
	"errors"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/view"
)

// Pass is one decision and all that comes of it: the actions in batches, a second plan after a failure, the status, and
// what Core and the user are told. Like Core it has neither goroutine nor clock. Whoever drives it asks for a step,
// carries it out, says what came of it, and asks again:
//
//	run := Begin(task, decide)
//	for step := run.Next(); !step.Over(); step = run.Next() {
//		run.Done(carryOut(step), now)
//	}
//	core.Done(task, run.Outcome(), now)
type Pass struct {
	task   Task
	decide func(Task) Decision
	// decision is the one that counts: the first, or the one made after a failure.
	decision Decision
	stage    stage
	step     Step
	// batch is the size of the last slow-start batch of the present run; zero at a run's start.
	batch int
	next  int

	// revised holds the newest resourceVersion that this pass gave an object, so that a later
	// write to it in the same plan does not conflict with the pass itself.
	revised map[object.Ref]string
	writes  []Write
	events  []plan.Event
	failed  *plan.Failure
	quiet   bool // the actions ended early, but no user need hear of it
	retry   bool
	stale   bool // and how recent the snapshot must be is known
	again   bool // the decision that counts is the one after a failure
}

// stage is how far a pass is.
//
//	acting --all done, or one failed--> writing --no status, or written--> over
//	   `--the planner panicked--> over <--the planner panicked over the failure--'
type stage uint8

const (
	acting stage = iota
	writing
	over
)

// Step is what is to be done next: some actions, in any order or at once, or a status to be written. It is neither when
// the pass is over.
type Step struct {
	Actions []plan.Action
	Status  object.Object
}

// Over says that nothing is left to do.
func (s Step) Over() bool { return len(s.Actions) == 0 && s.Status == nil }

// Result is what came of one action, or of writing the status.
type Result struct {
	// Object is the object as the action left it; nil when there is none. When Err says that the
	// snapshot is old, it is the object as it is: see Live.
	Object object.Object
	Err    error
}

// QuietTries is how often in a row an answer that usually means "your snapshot is old"
// (AlreadyExists, NotFound on update) is not yet a Failure that the planner is told of. Conflict
// never is one.
const QuietTries = 2

// Begin makes a decision, to be carried out. Decide is asked once more if an action fails, of the task with that failure
// as its last: for another status and other events only.
func Begin(t Task, decide func(Task) Decision) *Pass {
	p := &Pass{task: t, decide: decide, revised: map[object.Ref]string{}}
	p.take(decide(t))
	return p
}

// take makes a decision the one that counts.
func (p *Pass) take(d Decision) {
	if p.decision = d; d.Panic != nil {
		p.stage = over
	}
}

// Plan returns the plan that is carried out, or after a failure the one in its place.
func (p *Pass) Plan() plan.Plan { return p.decision.Plan }

// Panic is the planner's, if it panicked: the pass is over then.
func (p *Pass) Panic() *PlannerPanic { return p.decision.Panic }

// Failure is the first failure of the pass; nil when there was none.
func (p *Pass) Failure() *plan.Failure { return p.failed }

// Next returns what to do now. What it returned before must be Done.
func (p *Pass) Next() Step {
	p.step = Step{}
	if p.stage == acting {
		if p.step.Actions = p.actions(); p.step.Actions != nil {
			return p.step
		}
		p.stage = writing
		if p.failed != nil {
			p.again, p.task.Last = true, p.failed
			p.take(p.decide(p.task))
		}
	}
	if p.stage == writing {
		p.step.Status = p.status()
	}
	if p.step.Over() {
		p.stage = over
	}
	return p.step
}

// Done takes what came of the last step: a result for each action in order, or that of writing the status.
func (p *Pass) Done(results []Result, now time.Time) {
	if p.step.Status != nil {
		p.stage = over
		p.wroteStatus(results[0], now)
		return
	}
	p.next += len(p.step.Actions)
	for i, a := range p.step.Actions {
		p.did(a, results[i], now)
	}
}

// actions returns the actions to carry out now, together; none when they are done or one has failed. Neighbouring creates
// (or deletes) of one kind run in batches of 1, 2, 4 and on, so that what cannot work fails once and not a thousand times.
func (p *Pass) actions() []plan.Action {
	all := p.decision.Plan.Actions
	if p.failed != nil || p.quiet || p.next >= len(all) {
		return nil
	}
	run := runLength(all[p.next:])
	if p.next > 0 && !alike(all[p.next-1], all[p.next]) {
		p.batch = 0
	}
	p.batch = max(1, 2*p.batch)
	batch := all[p.next : p.next+min(p.batch, run)]
	if u, ok := batch[0].(plan.Update); ok {
		if rv, ok := p.revised[object.RefOf(u.Object)]; ok && u.Object.GetResourceVersion() != "" {
			u.Object.SetResourceVersion(rv)
		}
	}
	if w := p.task.witness; w != nil {
		w.deletes(p.task.Controller.Name, batch)
	}
	return batch
}

// runLength says how many of the first actions may run together.
func runLength(actions []plan.Action) int {
	n := 1
	for n < len(actions) && alike(actions[n-1], actions[n]) {
		n++
	}
	return n
}

func alike(a, b plan.Action) bool {
	if a.Target().Resource != b.Target().Resource {
		return false
	}
	switch a.(type) {
	case plan.Create:
		_, ok := b.(plan.Create)
		return ok
	case plan.Delete:
		_, ok := b.(plan.Delete)
		return ok
	}
	return false
}

func (p *Pass) did(a plan.Action, r Result, now time.Time) {
	if r.Err != nil || r.Object == nil {
		p.task.witness.spared(a)
	}
	err := Forgive(a, r.Err)
	if err == nil {
		p.wrote(r.Object)
		if done, _ := tells(a); done != nil && r.Err == nil && r.Object != nil {
			p.events = append(p.events, done.Fill(r.Object.GetName(), ""))
		}
		return
	}
	if p.failed != nil || p.quiet {
		return // the first failure of a batch is the one that counts
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		p.quiet = true // its namespace is going, and soon the primary too
		return
	}
	if apierrors.IsConflict(err) || looksOld(err) && p.task.Tries <= QuietTries {
		p.quiet, p.retry = true, true
		p.outdated(r)
		return
	}
	p.failed = &plan.Failure{Action: a, Status: statusOf(err), At: now, Times: max(1, p.task.Tries)}
	if _, failed := tells(a); failed != nil {
		p.events = append(p.events, failed.Fill(a.Target().Name, p.failed.Status.Message))
	}
}

// outdated notes that the next pass needs a snapshot that shows the object as it is.
func (p *Pass) outdated(r Result) {
	if r.Object == nil {
		return
	}
	if rev := view.RevisionOf(r.Object); rev > 0 {
		p.writes = append(p.writes, Write{object.RefOf(r.Object).Resource, rev})
		p.stale = true
	}
}

// wrote notes how recent the snapshot must be before the next plan.
func (p *Pass) wrote(o object.Object) {
	if o == nil {
		return
	}
	ref := object.RefOf(o)
	if rev := view.RevisionOf(o); rev > 0 {
		p.writes = append(p.writes, Write{ref.Resource, rev})
	}
	p.revised[ref] = o.GetResourceVersion()
}

// Forgive turns the answers that mean "it is so already" into success: what is not found need
// not be deleted, and another object under its name is none of our business.
func Forgive(a plan.Action, err error) error {
	switch a := a.(type) {
	case plan.Delete:
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) && a.Object.UID != "" && a.ResourceVersion == "" {
			return nil
		}
	case plan.Evict:
		if apierrors.IsNotFound(err) {
			return nil
		}
	}
	return err
}

// looksOld says that an answer is most likely due to a snapshot older than the cluster.
func looksOld(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}

func statusOf(err error) metav1.Status {
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		return api.Status()
	}
	return metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Reason: metav1.StatusReasonUnknown, Message: err.Error(),
	}
}

func tells(a plan.Action) (done, failed *plan.Event) {
	switch a := a.(type) {
	case plan.Create:
		return a.Done, a.Failed
	case plan.Update:
		return a.Done, a.Failed
	case plan.Delete:
		return a.Done, a.Failed
	case plan.Evict:
		return a.Done, a.Failed
	}
	return nil, nil
}

// status returns the status to write once the actions are over, or nil.
func (p *Pass) status() object.Object {
	s := p.decision.Plan.Status
	if s == nil {
		return nil
	}
	if rv, ok := p.revised[object.RefOf(s)]; ok {
		s.SetResourceVersion(rv)
	}
	return s
}

// wroteStatus takes the result of writing the status. A primary that is gone needs none.
func (p *Pass) wroteStatus(r Result, now time.Time) {
	switch {
	case r.Err == nil:
		p.wrote(r.Object)
	case apierrors.IsNotFound(r.Err):
	case apierrors.IsConflict(r.Err):
		p.retry = true
		p.outdated(r)
	default:
		p.retry = true
		if p.failed == nil {
			p.failed = &plan.Failure{
				Action: plan.Update{Object: p.step.Status, Subresource: "status", Because: "its status changed"},
				Status: statusOf(r.Err), At: now, Times: max(1, p.task.Tries),
			}
		}
	}
}

// Events returns what is to be told: the actions' outcomes, then the plan's own events but for those that the pass before
// told with its failure.
func (p *Pass) Events() []plan.Event {
	if p.decision.Panic != nil {
		return append(p.events, p.decision.Panic.event(p.decision.Primary))
	}
	own := p.decision.Plan.Events
	if !p.again {
		own = p.task.untold(own)
	}
	return append(p.events, own...)
}

// Outcome sums the pass up for Core.Done.
func (p *Pass) Outcome() Outcome {
	if p.decision.Panic != nil {
		return p.decision.Panic.outcome(p.writes)
	}
	out := Outcome{
		Writes: p.writes, Failure: p.failed, Retry: p.retry, Stale: p.stale,
		Again: p.decision.Plan.Again, Why: p.decision.Plan.Why, Gone: !p.decision.Exists,
	}
	if p.again {
		out.Told = p.decision.Plan.Events
	}
	return out
}

// untold drops the events that the second plan of the previous pass told already.
func (t Task) untold(events []plan.Event) []plan.Event {
	if t.item == nil || len(t.item.told) == 0 {
		return events
	}
	var out []plan.Event
	for _, e := range events {
		if !containsEvent(t.item.told, e) {
			out = append(out, e)
		}
	}
	return out
}

func containsEvent(events []plan.Event, e plan.Event) bool {
	for _, other := range events {
		if other == e {
			return true
		}
	}
	return false
}
