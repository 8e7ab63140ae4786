package loop

import (
	"fmt"
	"runtime/debug"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
)

// Decide asks the planner of a task, and turns a panic of the planner into an error.
func Decide(t Task, r plan.Reader, now time.Time, w plan.Witness) (p plan.Plan, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = &PlannerPanic{t.Controller.Name, t.Key, cause, string(debug.Stack())}
		}
	}()
	return t.Controller.Plan(plan.Input{Reader: r, Key: t.Key, Now: now, Witness: w, Last: t.Last}), nil
}

// PlannerPanic is a panic in a planner, a defect: the pass does nothing and is tried again later.
type PlannerPanic struct {
	Controller string
	Key        plan.Key
	Cause      any
	Stack      string
}

func (e *PlannerPanic) Error() string {
	return fmt.Sprintf("%s panicked over %s: %v", e.Controller, e.Key, e.Cause)
}

// Event tells the user of the defect.
func (e *PlannerPanic) Event(primary plan.Ref) plan.Event {
	return plan.Event{
		Regarding: primary, Type: corev1.EventTypeWarning, Reason: "PlannerPanic",
		Message: fmt.Sprintf("%s failed with an internal error and will try again: %v", e.Controller, e.Cause),
	}
}

// Outcome backs off and explains.
func (e *PlannerPanic) Outcome() Outcome {
	return Outcome{Retry: true, Why: plan.Why{
		State: plan.Stuck,
		Waits: []plan.Wait{{Reason: "PlannerPanic", Message: e.Error(), Hint: "this is a defect: please report it with the server's log"}},
	}}
}
