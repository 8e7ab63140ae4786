package loop

import "time"

// How an absence of the process is noticed: it looks at the clocks every pulseEvery at least, and one that has gone on
// by more than pulseGap between two looks was not looked at.
const (
	pulseEvery = 5 * time.Second
	pulseGap   = 3 * pulseEvery
)

// pulse notices that the process did not run: stopped (SIGSTOP, a debugger, a starved machine), which the steady clock
// shows, or suspended with its machine, which on Linux only the time of day shows, because the steady clock stands still
// (clock_gettime(2), CLOCK_MONOTONIC). A time of day that was set looks like a suspension, and is taken for one.
type pulse struct {
	began, last time.Time
}

// beat says whether the process was away since the last beat.
func (p *pulse) beat(now time.Time) (away bool) {
	away = absent(now.Sub(p.last), now.Round(0).Sub(p.last.Round(0)))
	p.last = now
	return away
}

// absent says whether a step of the two clocks, between two looks, is one that no running process sees.
func absent(steady, timeOfDay time.Duration) bool {
	return steady > pulseGap || (timeOfDay-steady).Abs() > pulseGap
}
