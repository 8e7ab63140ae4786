package replicaset

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/refusal"
)

// shown is how many pods an explanation names; the rest are counted.
const shown = 3

// why explains the plan: what happens next, then each pod that is not available with its reason.
func (p *picture) why(c counts) plan.Why {
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
		w.State = worse(w.State, plan.Waiting)
		w.Waits = append(w.Waits, plan.Wait{Reason: "PodReplacementPolicy", On: object.RefOf(p.terminating[0]),
			Since:   deletedAt(p.terminating[0]),
			Message: fmt.Sprintf("%s terminating; with TerminationComplete they are replaced when they are gone", are(len(p.terminating)))})
	}
	if int(c.available) < len(p.active) || len(p.terminating) > 0 {
		p.explainPods(&w)
	}
	return w
}

// refusal words a wait for the API to accept what it refused.
func (p *picture) refusal(f *failure) plan.Wait {
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
func (p *picture) explainPods(w *plan.Why) {
	var bad, slow []*corev1.Pod
	missing := 0
	for _, pod := range p.active {
		if p.available(pod) {
			continue
		}
		missing++
		if len(bad) < shown && looksBad(pod) {
			bad = append(bad, pod)
		} else if len(slow) < shown {
			slow = append(slow, pod)
		}
	}
	worst := append(bad, slow...)
	for _, pod := range worst[:min(shown, len(worst))] {
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
	if missing == 0 && p.held == 0 && len(p.terminating) > 0 {
		v := diagnose.Pod(p.Reader, p.terminating[0], p.set.minReady, p.Now)
		w.Waits, w.State = append(w.Waits, v.Wait), worse(w.State, plan.Waiting)
	}
}

// deletedAt is when a terminating pod's deletion began: its timestamp is the end of its grace.
func deletedAt(pod *corev1.Pod) time.Time {
	at := pod.DeletionTimestamp.Time
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		at = at.Add(-time.Duration(*g) * time.Second)
	}
	return at
}

// looksBad tells at a glance the pods that hardly get well by themselves.
func looksBad(pod *corev1.Pod) bool {
	if c := podstate.Condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		return true
	}
	for i := range pod.Status.ContainerStatuses {
		if s := pod.Status.ContainerStatuses[i].State.Waiting; s != nil && s.Reason != "ContainerCreating" && s.Reason != "PodInitializing" {
			return true
		}
	}
	for i := range pod.Status.InitContainerStatuses {
		if s := pod.Status.InitContainerStatuses[i].State.Waiting; s != nil && s.Reason != "PodInitializing" {
			return true
		}
	}
	return false
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
