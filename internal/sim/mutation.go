package sim

import (
	"slices"

	"coracle/internal/client"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
)

// mutation is a defect put into the product on purpose, to prove that a simulation finds its like.
type mutation struct {
	Name string
	// Controller is whose plans Plan changes.
	Controller string
	Plan       func(in plan.Input, p plan.Plan) plan.Plan
	// Where names features without one of which the defect changes nothing; none means that all worlds may show it.
	Where []feature
	// Past is how many worlds are passed over that are known not to show it: what it takes is rare.
	Past uint64
	// Action changes an action just before it is carried out.
	Action func(plan.Action) plan.Action
	// Scheduler changes what the scheduler reaches the API by, Bill what a create is charged.
	Scheduler func(client.Interface) client.Interface
	Bill      func([]quota.Item) []quota.Item
	// Uncorrected and Unheard are defects of the API and of watches: see virtual.Hooks.
	Uncorrected bool
	Unheard     func(before, after object.Object) bool
	// Outcome changes what the loop is told came of a pass.
	Outcome func(loop.Task, *loop.Outcome)
}

// controllers are those of the product, with the defect.
func (m *mutation) controllers(of []plan.Controller) []plan.Controller {
	if m == nil || m.Plan == nil {
		return of
	}
	for i, c := range of {
		if c.Name == m.Controller {
			of[i].Plan = func(in plan.Input) plan.Plan { return m.Plan(in, c.Plan(in)) }
		}
	}
	return of
}

func (m *mutation) action(a plan.Action) plan.Action {
	if m == nil || m.Action == nil {
		return a
	}
	return m.Action(a)
}

func (m *mutation) outcome(t loop.Task, o *loop.Outcome) {
	if m != nil && m.Outcome != nil {
		m.Outcome(t, o)
	}
}

// shows says whether the world of a seed can show the defect.
func (m *mutation) shows(seed uint64) bool {
	has := drawn(seed)
	return len(m.Where) == 0 || slices.ContainsFunc(m.Where, func(f feature) bool { return has[f] })
}
