package replicaset

import (
	"fmt"
	"time"

	"coracle/internal/plan"
	"coracle/internal/workload/diagnose"
)

// Pods that their nodes refuse are replaced after a pause, doubling with each round of them: made at once they would
// fare the same, a hundred times a second. The rounds are told apart by when pods were created, to the second; they
// are forgotten once there was none for twice the longest pause, or when the refused pods are deleted.
const (
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	forgotten    = 2 * longestPause
)

// pause returns until when no pod is made in the place of refused ones; zero when pods may be made. created returns the
// latest creation of a refused pod before an instant, zero for the latest of all; false when there is none.
func pause(created func(before time.Time) (time.Time, bool), now time.Time) time.Time {
	last, found := created(time.Time{})
	if !found {
		return time.Time{}
	}
	wait, round := firstPause, last
	for wait < longestPause {
		at, found := created(round)
		if !found || round.Sub(at) > forgotten {
			break
		}
		wait, round = 2*wait, at
	}
	if due := last.Add(min(wait, longestPause)); now.Before(due) {
		return due
	}
	return time.Time{}
}

// rest holds the creation of pods back while it is too soon after refused ones.
func (p *snapshot) rest() {
	if p.lack > p.held {
		p.paused = pause(func(before time.Time) (time.Time, bool) {
			_, at, found := p.lastRefused(before)
			return at, found
		}, p.Now)
	}
}

// lastRefused is the refused pod that was created last before an instant, zero for any.
func (p *snapshot) lastRefused(before time.Time) (name string, created time.Time, found bool) {
	for _, g := range p.groups {
		if n, at, there := g.LastRefused(before); there && (!found || at.After(created) || at.Equal(created) && n < name) {
			name, created, found = n, at, true
		}
	}
	return name, created, found
}

// resting explains the pause by the pod that was refused last.
func (p *snapshot) resting() plan.Wait {
	refused := 0
	for _, g := range p.groups {
		refused += g.Refused()
	}
	name, _, _ := p.lastRefused(time.Time{})
	w := diagnose.Pod(p.Reader, p.pod(name), 0, p.Now).Wait
	w.Message = fmt.Sprintf("%s; %s refused so far, and the next is made after a pause, at %s",
		w.Message, are(refused), p.paused.UTC().Format(time.TimeOnly))
	return w
}
