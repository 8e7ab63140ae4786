package statefulset

import (
	"fmt"

	"coracle/internal/plan"
)

// explain sums the decision up. What the API refused comes first: it is the likeliest cause.
func (d *decision) explain() {
	why := &d.out.Why
	if last := d.in.Last; last != nil && last.Action != nil {
		why.Waits = append([]plan.Wait{{
			Reason:  string(last.Status.Reason),
			Message: fmt.Sprintf("the API refused %s: %s", describe(last.Action), last.Status.Message),
			On:      plan.RefOf(d.set),
			Since:   last.At,
		}}, why.Waits...)
	}
	switch {
	case len(d.out.Actions) > 0:
		why.State = plan.Progressing
		why.Next = describe(d.out.Actions[0]) + ": " + d.out.Actions[0].Reason()
		if more := len(d.out.Actions) - 1; more > 0 {
			why.Next += fmt.Sprintf(" (and %d more)", more)
		}
	case d.stuck:
		why.State = plan.Stuck
	case len(why.Waits) > 0:
		why.State = plan.Waiting
	default:
		why.State = plan.Steady
	}
}

func describe(a plan.Action) string {
	verb := "write"
	switch a.(type) {
	case plan.Create:
		verb = "create"
	case plan.Update:
		verb = "update"
	case plan.Delete:
		verb = "delete"
	case plan.Evict:
		verb = "evict"
	}
	t := a.Target()
	return verb + " " + t.Resource.Kind + " " + t.Name
}
