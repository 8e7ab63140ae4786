package replicaset

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/refusal"
	"coracle/internal/workload/tally"
)

// shown is how many pods an explanation names; the rest are counted.
const shown = 3

// why explains the plan: what happens next, then each pod that is not available with its reason.
func (p *snapshot) why() plan.Why {
	c := p.counts
	w := plan.Why{State: plan.Steady}
	if s := p.set.object; s.GetDeletionTimestamp() != nil {
		return plan.Why{State: plan.Waiting, Waits: []plan.Wait{{Reason: "Deleting", Since: s.GetDeletionTimestamp().Time,
			Message: fmt.Sprintf("the %s is being deleted; finalizers: %s", p.set.kind, strings.Join(s.GetFinalizers(), ", "))}}}
	}
	switch {
	case p.lack > 0 && p.namespaceEnds():
		w.State = plan.Stuck
		w.Waits = append(w.Waits, plan.Wait{Reason: "NamespaceTerminating",
			Message: fmt.Sprintf("namespace %q is being deleted: no pod can be created in it", p.set.object.GetNamespace())})
	case p.lack > p.held && !p.paused.IsZero():
		w.State = plan.Stuck
		w.Waits = append(w.Waits, p.resting())
	case p.lack > p.held:
		w.State, w.Next = plan.Progressing, fmt.Sprintf("create %s: %d of %d exist", pods(min(p.lack-p.held, Burst)), c.replicas, p.set.replicas)
	case p.lack < 0:
		w.State, w.Next = plan.Progressing, fmt.Sprintf("delete %s: %d exist, %d are asked for", pods(min(-p.lack, Burst)), c.replicas, p.set.replicas)
	}
	if f := p.failure(); f != nil {
		w.State = plan.Stuck
		w.Waits = append(w.Waits, p.refusal(f))
	}
	if p.held > 0 {
		leaving := p.leaving()
		w.State = worse(w.State, plan.Waiting)
		w.Waits = append(w.Waits, plan.Wait{Reason: "PodReplacementPolicy", On: object.RefOf(leaving),
			Since:   deletedAt(leaving),
			Message: fmt.Sprintf("%s terminating; with TerminationComplete they are replaced when they are gone", are(p.terminating))})
	}
	if int(c.available) < p.active || p.terminating > 0 {
		p.explainPods(&w)
	}
	return w
}

// refusal words a wait for the API to accept what it refused.
func (p *snapshot) refusal(f *failure) plan.Wait {
	w := plan.Wait{Reason: f.reason, Message: "the API refused the last try: " + f.message, On: object.RefOf(p.set.object)}
	if p.Last != nil {
		w.Since, w.Refused = p.Last.At, &p.Last.Status
		if f.reason == failedCreate {
			w.Hint = refusal.Hint(p.Last.Status)
		}
	}
	return w
}

// explainPods adds a wait for the pods that are not available, those that look worst first. Only
// the few that are shown are diagnosed: the cost of a plan must not be that of its explanation.
func (p *snapshot) explainPods(w *plan.Why) {
	missing := p.active - int(p.counts.available)
	for _, pod := range p.worst() {
		v := diagnose.Pod(p.Reader, pod, p.set.minReady, p.Now)
		w.Waits = append(w.Waits, v.Wait)
		w.State = worse(w.State, plan.Waiting)
		if v.Stuck {
			w.State = plan.Stuck
		}
	}
	if more := missing - shown; more > 0 {
		w.Waits = append(w.Waits, plan.Wait{Reason: "MorePods", Message: "besides, " + are(more) + " not available"})
	}
	if leaving := p.leaving(); missing == 0 && p.held == 0 && leaving != nil {
		v := diagnose.Pod(p.Reader, leaving, p.set.minReady, p.Now)
		w.Waits, w.State = append(w.Waits, v.Wait), worse(w.State, plan.Waiting)
	}
}

// worst returns the pods to explain, as many as are shown: those that look bad, the others that are not ready, those
// that have not been for long enough, those that not every node knows.
func (p *snapshot) worst() []*corev1.Pod {
	names := make([]string, 0, shown)
	take := func(more []string) {
		for _, name := range more {
			if len(names) < shown && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	take(p.some(func(g *tally.Group) iter.Seq[string] { return g.Unready(true) }))
	take(p.some(func(g *tally.Group) iter.Seq[string] { return g.Unready(false) }))
	take(p.some(func(g *tally.Group) iter.Seq[string] { return g.Ripening(p.minReady(), p.Now) }))
	take(p.unknown)
	pods := make([]*corev1.Pod, 0, shown)
	for _, name := range names {
		if pod := p.pod(name); pod != nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

// some returns of each group the first few names, in their order; those of several groups by name.
func (p *snapshot) some(of func(*tally.Group) iter.Seq[string]) (names []string) {
	groups := 0
	for _, g := range p.groups {
		n := len(names)
		for name := range of(g) {
			if names = append(names, name); len(names)-n == shown {
				break
			}
		}
		if len(names) > n {
			groups++
		}
	}
	if groups > 1 {
		slices.Sort(names)
	}
	return names
}

// leaving returns the terminating pod that is told of, the first by name; nil when there is none.
func (p *snapshot) leaving() *corev1.Pod {
	names := p.some((*tally.Group).Leaving)
	if len(names) == 0 {
		return nil
	}
	return p.pod(names[0])
}

// deletedAt is when a terminating pod's deletion began: its timestamp is the end of its grace.
func deletedAt(pod *corev1.Pod) time.Time {
	at := pod.DeletionTimestamp.Time
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		at = at.Add(-time.Duration(*g) * time.Second)
	}
	return at
}

// worse returns the state that tells the user more: Stuck over Progressing over Waiting over Steady.
func worse(a, b plan.State) plan.State {
	rank := map[plan.State]int{plan.Steady: 0, plan.Waiting: 1, plan.Progressing: 2, plan.Stuck: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

func pods(n int) string {
	if n == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", n)
}

func are(n int) string { return pods(n) + " " + beVerb(n) }

func beVerb(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
