package diagnose

import (
	"fmt"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/refusal"
)

// Conclude completes a plan's explanation from what the planner noted. What the API refused comes
// first, because it is the likeliest cause; waits follow; notes, which are said but not waited for,
// come last. stuck says that a wait will not end without the user.
func Conclude(out *plan.Plan, in plan.Input, on object.Ref, waits, notes []plan.Wait, stuck bool) {
	why := &out.Why
	if last := in.Last; last != nil && last.Action != nil {
		why.Waits = append(why.Waits, plan.Wait{
			Reason:  string(last.Status.Reason),
			Message: fmt.Sprintf("the API refused %s: %s", Action(last.Action), last.Status.Message),
			On:      on,
			Since:   last.At,
			Hint:    refusal.Hint(last.Status),
			Refused: &last.Status,
		})
	}
	why.Waits = append(why.Waits, waits...)
	waiting := len(why.Waits) > 0
	why.Waits = append(why.Waits, notes...)
	switch {
	case len(out.Actions) > 0:
		why.State = plan.Progressing
		why.Next = Action(out.Actions[0]) + ": " + out.Actions[0].Reason()
		if more := len(out.Actions) - 1; more > 0 {
			why.Next += fmt.Sprintf(" (and %d more)", more)
		}
	case stuck:
		why.State = plan.Stuck
	case waiting:
		why.State = plan.Waiting
	default:
		why.State = plan.Steady
	}
}

// Action says in a few words what an action does, such as "create Pod web-0".
func Action(a plan.Action) string {
	t := a.Target()
	name, verb := t.Name, "write"
	switch a := a.(type) {
	case plan.Create:
		verb = "create"
		if name == "" {
			name = a.Object.GetGenerateName() + "*"
		}
	case plan.Update:
		verb = "update"
	case plan.Delete:
		verb = "delete"
	case plan.Evict:
		verb = "evict"
	}
	return verb + " " + t.Resource.Kind + " " + name
}
