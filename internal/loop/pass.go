package loop

import (
	"errors"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/plan"
	"coracle/internal/view"
)

// Pass carries one plan out, one batch of actions at a time. Like Core it has neither goroutine
// nor clock: whoever drives it applies each action of a batch, in any order or at once, reports
// the results, and asks for the next batch.
type Pass struct {
	task    Task
	actions []plan.Action
	status  plan.Object
	// batch is the size of the last slow-start batch of the present run; zero at a run's start.
	batch int
	next  int

	// revised holds the newest resourceVersion that this pass gave an object, so that a later
	// write to it in the same plan does not conflict with the pass itself.
	revised map[plan.Ref]string
	writes  []Write
	events  []plan.Event
	failed  *plan.Failure
	quiet   bool // the pass ended early, but no user need hear of it
	retry   bool
	stale   bool // and how recent the picture must be is known
}

// Result is what came of one action.
type Result struct {
	// Object is the object as the action left it; nil when there is none. When Err says that the
	// picture is old, it is the object as it is: see Live.
	Object plan.Object
	Err    error
}

// QuietTries is how often in a row an answer that usually means "your picture is old"
// (AlreadyExists, NotFound on update) is not yet a Failure that the planner is told of. Conflict
// never is one.
const QuietTries = 2

// Begin starts carrying out p.
func Begin(t Task, p plan.Plan) *Pass {
	return &Pass{task: t, actions: p.Actions, status: p.Status, revised: map[plan.Ref]string{}}
}

// Next returns the actions to carry out now, together; none when the actions are done or one
// has failed. Neighbouring creates (or deletes) of one kind run in batches of 1, 2, 4 and on, so
// that what cannot work fails once and not a thousand times.
func (p *Pass) Next() []plan.Action {
	if p.failed != nil || p.quiet || p.next >= len(p.actions) {
		return nil
	}
	run := runLength(p.actions[p.next:])
	if p.next > 0 && !alike(p.actions[p.next-1], p.actions[p.next]) {
		p.batch = 0
	}
	p.batch = max(1, 2*p.batch)
	batch := p.actions[p.next : p.next+min(p.batch, run)]
	if u, ok := batch[0].(plan.Update); ok {
		if rv, ok := p.revised[plan.RefOf(u.Object)]; ok && u.Object.GetResourceVersion() != "" {
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

// Report takes the results of the last batch, one for each action in order.
func (p *Pass) Report(batch []plan.Action, results []Result, now time.Time) {
	p.next += len(batch)
	for i, a := range batch {
		p.report(a, results[i], now)
	}
}

func (p *Pass) report(a plan.Action, r Result, now time.Time) {
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
	times := 1
	if it := p.task.item; it != nil {
		times += it.failures
	}
	if apierrors.IsConflict(err) || looksOld(err) && times <= QuietTries {
		p.quiet, p.retry = true, true
		p.outdated(r)
		return
	}
	p.failed = &plan.Failure{Action: a, Status: statusOf(err), At: now, Times: times}
	if _, failed := tells(a); failed != nil {
		p.events = append(p.events, failed.Fill(a.Target().Name, p.failed.Status.Message))
	}
}

// outdated notes that the next pass needs a picture that shows the object as it is.
func (p *Pass) outdated(r Result) {
	if r.Object == nil {
		return
	}
	if rev := view.RevisionOf(r.Object); rev > 0 {
		p.writes = append(p.writes, Write{plan.RefOf(r.Object).Resource, rev})
		p.stale = true
	}
}

// wrote notes how recent the picture must be before the next plan.
func (p *Pass) wrote(o plan.Object) {
	if o == nil {
		return
	}
	ref := plan.RefOf(o)
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

// looksOld says that an answer is most likely due to a picture older than the cluster.
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

// Failure is the first failure of the pass; nil when there was none. After one, the planner is
// asked again at once with it, for its status and events only: see Instead.
func (p *Pass) Failure() *plan.Failure { return p.failed }

// Instead takes the status of a second plan, made with the knowledge of the failure.
func (p *Pass) Instead(q plan.Plan) { p.status = q.Status }

// Status returns the status to write once the actions are over, or nil.
func (p *Pass) Status() plan.Object {
	if p.status == nil {
		return nil
	}
	if rv, ok := p.revised[plan.RefOf(p.status)]; ok {
		p.status.SetResourceVersion(rv)
	}
	return p.status
}

// ReportStatus takes the result of writing the status. A primary that is gone needs none.
func (p *Pass) ReportStatus(r Result, now time.Time) {
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
			times := 1
			if p.task.item != nil {
				times += p.task.item.failures
			}
			p.failed = &plan.Failure{
				Action: plan.Update{Object: p.status, Subresource: "status", Because: "its status changed"},
				Status: statusOf(r.Err), At: now, Times: times,
			}
		}
	}
}

// Events returns what the actions' outcomes tell.
func (p *Pass) Events() []plan.Event { return p.events }

// Outcome sums the pass up for Core.Done. told are the events of the second plan, when there was
// one.
func (p *Pass) Outcome(used plan.Plan, told []plan.Event, gone bool) Outcome {
	return Outcome{
		Writes: p.writes, Failure: p.failed, Retry: p.retry, Stale: p.stale, Again: used.Again, Why: used.Why, Told: told, Gone: gone,
	}
}

// Untold drops the events that the second plan of the previous pass told already.
func (t Task) Untold(events []plan.Event) []plan.Event {
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
