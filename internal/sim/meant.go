package sim

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/virtual"
)

// meant keeps account of what decisions were about, for the promise that a write happens to that very object, as it was
// when it was decided about, however old the snapshot was: preconditions see to it.
type meant struct {
	// ended are the objects that controllers decided to end.
	ended map[string]map[types.UID]bool
	// at are the versions that they decided to change, or left behind.
	at map[string]map[object.Ref]string
}

func newMeant() meant {
	return meant{map[string]map[types.UID]bool{}, map[string]map[object.Ref]string{}}
}

// decided notes a decision.
func (m *meant) decided(by string, p plan.Plan) {
	if m.ended[by] == nil {
		m.ended[by], m.at[by] = map[types.UID]bool{}, map[object.Ref]string{}
	}
	for _, a := range p.Actions {
		switch a := a.(type) {
		case plan.Update:
			m.at[by][object.RefOf(a.Object)] = a.Object.GetResourceVersion()
		case plan.Delete, plan.Evict:
			m.ended[by][a.Target().UID] = true
		}
	}
}

// stating notes a status that is about to be written.
func (m *meant) stating(by string, status object.Object) {
	m.at[by][object.RefOf(status)] = status.GetResourceVersion()
}

// written holds a controller's write against what it decided on.
func (m *meant) written(e fake.Entry, by string) error {
	if e.Before == nil || m.at[by] == nil || by == virtual.Scheduler {
		return nil
	}
	ref := object.RefOf(e.Object)
	if e.Before.GetDeletionTimestamp() == nil && (e.Object.GetDeletionTimestamp() != nil || e.Type == "DELETED") {
		if !m.ended[by][ref.UID] {
			return fmt.Errorf("the very object: %s deletes %s, about which it has not decided", by, ref)
		}
		return nil
	}
	// What a quota is charged and a budget spends is the API's doing, as is the mark of an eviction.
	if e.Resource == resource.ResourceQuotas || e.Resource == resource.PodDisruptionBudgets || m.ended[by][ref.UID] {
		return nil
	}
	was := m.at[by][ref]
	if was != e.Before.GetResourceVersion() {
		return fmt.Errorf("as it was: %s writes %s as of version %q, which is at %s", by, ref, was, e.Before.GetResourceVersion())
	}
	m.at[by][ref] = e.Object.GetResourceVersion()
	return nil
}

// hard are the promises that hold whatever a controller has read: preconditions and guards keep them. All others are about
// numbers, which only somebody can keep who knows what he has done.
var hard = map[string]bool{"forced": true, "claims kept": true, "quota": true, "rollback": true, "orphans kept": true}

// reads tells the checks that the controllers begin anew, from the past or not. Who reads the past does again what is done
// already: until all has been as it should be, there may be more pods than anybody asked for, and fewer once they go.
func (c *checks) reads(past bool) {
	c.past = past
	if past {
		c.adopted++
		c.excused += 1000
	}
}

// pardon passes over what a controller cannot help that reads the past.
func (c *checks) pardon(err error) error {
	if c.past && !c.w.late() && len(c.w.Passes()) == 0 {
		c.past = false // what was decided from here on is decided by the present
	}
	if err == nil || c.past && !hard[promise(err)] {
		return nil
	}
	return err
}
