package loop

import (
	"time"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Explanation is the latest word of one controller about one object.
type Explanation struct {
	Controller string
	Why        plan.Why
	// At is when it was decided.
	At time.Time
	// Failure is how carrying it out failed; nil when it did not.
	Failure *plan.Failure
	// Again is when it will be looked at again though nothing changes; zero means never.
	Again time.Time
}

// Why returns what the controllers last said about an object.
func (c *Core) Why(res resource.Resource, key object.Key) []Explanation {
	var out []Explanation
	for _, q := range c.ctls {
		if q.For != res {
			continue
		}
		if it := c.items[itemKey{q.index, key}]; it != nil && (it.why.State != "" || it.failure != nil) {
			out = append(out, Explanation{q.Name, it.why, it.whyAt, it.failure, it.at})
		}
	}
	return out
}
