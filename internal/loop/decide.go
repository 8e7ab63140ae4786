package loop

import (
	"fmt"
	"runtime/debug"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
)

// Decision is what the planner of a task said on one snapshot.
type Decision struct {
	// Primary names the object that the decision is about, with its UID where the snapshot has it.
	Primary object.Ref
	Exists  bool
	Plan    plan.Plan
	// Panic is set when the planner panicked; the plan is empty then.
	Panic *PlannerPanic
}

// Decide asks the planner of a task.
func Decide(t Task, r object.Reader, now time.Time, w plan.Witness) (d Decision) {
	d.Primary = object.Ref{Resource: t.Controller.For, Key: t.Key}
	if o, ok := r.Get(t.Controller.For, t.Key.Namespace, t.Key.Name); ok {
		d.Primary.UID, d.Exists = o.GetUID(), true
	}
	defer func() {
		if cause := recover(); cause != nil {
			d.Panic = &PlannerPanic{t.Controller.Name, t.Key, cause, string(debug.Stack())}
		}
	}()
	d.Plan = t.Controller.Plan(plan.Input{Reader: r, Key: t.Key, Now: now, Witness: w, Last: t.Last})
	return d
}

// PlannerPanic is a panic in a planner, a defect: the pass does nothing more and is tried again later.
type PlannerPanic struct {
	Controller string
	Key        object.Key
	Cause      any
	Stack      string
}

func (e *PlannerPanic) Error() string {
	return fmt.Sprintf("%s panicked over %s: %v", e.Controller, e.Key, e.Cause)
}

// event tells the user of the defect.
func (e *PlannerPanic) event(primary object.Ref) plan.Event {
	return plan.Event{
		Regarding: primary, Type: corev1.EventTypeWarning, Reason: "PlannerPanic",
		Message: fmt.Sprintf("%s failed with an internal error and will try again: %v", e.Controller, e.Cause),
	}
}

// outcome backs off and explains.
func (e *PlannerPanic) outcome(writes []Write) Outcome {
	return Outcome{Writes: writes, Retry: true, Why: plan.Why{
		State: plan.Stuck,
		Waits: []plan.Wait{{Reason: "PlannerPanic", Message: e.Error(), Hint: "this is a defect: please report it with the server's log"}},
	}}
}
