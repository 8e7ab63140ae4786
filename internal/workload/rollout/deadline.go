package rollout

import "time"

// Standing says how a rollout gets on.
type Standing int

// The standings.
const (
	// Unchanged: nothing new, and the deadline has not passed.
	Unchanged Standing = iota
	// Done: the rollout is complete.
	Done
	// Advanced: something moved since the last status.
	Advanced
	// TimedOut: nothing has moved for the whole deadline.
	TimedOut
)

// Progress is what a Standing is judged from.
type Progress struct {
	// Complete: all pods are of the new template and available.
	Complete bool
	// Moved: more updated, ready or available pods, or fewer old ones, than the last status said.
	Moved bool
	// Last is when the rollout last moved, zero when not known: the deadline then does not run.
	Last time.Time
	// Expired: the last status already said that the deadline has passed.
	Expired bool
	// Rested: the last status said that the rollout was complete. Pods that are lost later do
	// not start the deadline again.
	Rested bool
	// Deadline is how long a rollout may stand still.
	Deadline time.Duration
}

// Judge says how a rollout gets on at now, and when the deadline will pass if nothing moves (zero
// when it does not run).
func (p Progress) Judge(now time.Time) (Standing, time.Time) {
	switch {
	case p.Complete:
		return Done, time.Time{}
	case p.Moved:
		return Advanced, now.Add(p.Deadline)
	case p.Rested:
		return Unchanged, time.Time{}
	case p.Expired:
		return TimedOut, time.Time{}
	case p.Last.IsZero():
		return Unchanged, time.Time{}
	}
	end := p.Last.Add(p.Deadline)
	if now.Before(end) {
		return Unchanged, end
	}
	return TimedOut, time.Time{}
}
