package replicaset

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
	"coracle/internal/workload/diagnose"
)

// Pods that their nodes refuse are replaced after a pause, doubling with each round of them: made at once they would fare
// the same, a hundred times a second. The rounds are told apart by when pods were created, to the second; they are
// forgotten once there was none for twice the longest pause, or when the refused pods are deleted.
const (
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	forgotten    = 2 * longestPause
)

// pause returns until when no pod is made in the place of refused ones, which are sorted by their creation; zero when pods
// may be made.
func pause(refused []*corev1.Pod, now time.Time) time.Time {
	if len(refused) == 0 {
		return time.Time{}
	}
	last := refused[len(refused)-1].CreationTimestamp.Time
	wait, round := firstPause, last
	for i := len(refused) - 2; i >= 0 && wait < longestPause; i-- {
		at := refused[i].CreationTimestamp.Time
		if round.Sub(at) > forgotten {
			break
		}
		if !at.Equal(round) {
			wait, round = 2*wait, at
		}
	}
	if due := last.Add(min(wait, longestPause)); now.Before(due) {
		return due
	}
	return time.Time{}
}

// rest sorts the refused pods, and holds the creation of others back while it is too soon for them.
func (p *picture) rest() {
	slices.SortFunc(p.refused, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	if p.lack > p.held {
		p.paused = pause(p.refused, p.Now)
	}
}

// resting explains the pause by the pod that was refused last.
func (p *picture) resting() plan.Wait {
	last := p.refused[len(p.refused)-1]
	w := diagnose.Pod(p.Reader, last, 0, p.Now).Wait
	w.Message = fmt.Sprintf("%s; %s refused so far, and the next is made after a pause, at %s",
		w.Message, are(len(p.refused)), p.paused.UTC().Format(time.TimeOnly))
	return w
}
