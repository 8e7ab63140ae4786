package loop

import "sync/atomic"

// Counters count what a loop did since it began.
type Counters struct {
	// Passes are decisions made; Actions, Statuses and Events are writes asked for.
	Passes, Actions, Statuses, Events atomic.Int64
	// Failures are passes that ended early; Panics are defects of planners; Dropped are events
	// not told because too many waited.
	Failures, Panics, Dropped atomic.Int64
}
