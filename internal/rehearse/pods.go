package rehearse

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/podstate"
	"coracle/internal/virtual"
)

// podTally counts what becomes of pods.
type podTally struct {
	created, deleted int
	// waiting are pods that had to go, by their owner, until it makes others in their place.
	waiting map[string][]lost
	// replaces says which pod a new one is in the place of.
	replaces map[types.UID]lost
	moves    map[move]int
	// failed are the failures that were told: a crash loop is told once.
	failed map[failing]bool
}

type failing struct {
	types.UID
	reason string
}

// lost is a pod that had to go from a node.
type lost struct{ workload, node string }

// move is from where to where pods of a workload go.
type move struct{ workload, from, to string }

func (rec *recorder) wrotePod(w virtual.Write, pod *corev1.Pod) {
	before, _ := w.Before.(*corev1.Pod)
	switch {
	case before == nil:
		rec.pods.created++
		rec.adoptPlace(pod)
		rec.sayPod(pod, "created", "")
		return
	case w.Type == "DELETED" && before.DeletionTimestamp == nil || before.DeletionTimestamp == nil && pod.DeletionTimestamp != nil:
		rec.podGoes(w, pod)
		return
	case w.Type == "DELETED":
		rec.touch()
		return
	}
	if before.Spec.NodeName == "" && pod.Spec.NodeName != "" {
		rec.placed(pod)
	}
	if pod.DeletionTimestamp != nil {
		return
	}
	was, is := podstate.Ready(before), podstate.Ready(pod)
	reason, fails := failingReason(pod)
	old, failed := failingReason(before)
	switch {
	case is && !was:
		rec.sayPod(pod, "ready", pod.Spec.NodeName)
	case was && !is && !podstate.Ended(pod):
		rec.sayPod(pod, "no longer ready", pod.Spec.NodeName)
	}
	switch {
	case fails && (!failed || old != reason) && !rec.pods.failed[failing{pod.UID, reason}]:
		rec.pods.failed[failing{pod.UID, reason}] = true
		rec.sayPod(pod, "fails: "+reason, "")
	case podstate.Ended(pod) && !podstate.Ended(before):
		rec.sayPod(pod, strings.ToLower(string(pod.Status.Phase)), "")
	}
	if told := unplaced(pod); told != "" && told != unplaced(before) {
		rec.sayPod(pod, "cannot be placed: "+told, "")
	}
}

// unplaced is why the scheduler found no node for a pod; empty when it did, or has not looked.
func unplaced(pod *corev1.Pod) string {
	if c := podstate.Condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		return strings.TrimSuffix(c.Message, ".")
	}
	return ""
}

// podGoes tells of a deletion, and whose doing it is.
func (rec *recorder) podGoes(w virtual.Write, pod *corev1.Pod) {
	rec.pods.deleted++
	what, displaced := "deleted", true
	c := podstate.Condition(pod, corev1.DisruptionTarget)
	switch {
	case c != nil && c.Reason == "EvictionByEvictionAPI":
		what = "evicted"
	case c != nil && c.Reason == "DeletionByTaintManager":
		what = "evicted by taint"
	case c != nil && c.Reason == corev1.PodReasonPreemptionByScheduler:
		what = "preempted"
	default:
		displaced = w.By != virtual.User && w.By != "garbage-collector" && strings.Contains(w.By, "pod-garbage")
	}
	node := ""
	if displaced {
		node = pod.Spec.NodeName
	}
	rec.sayPod(pod, what, node)
	if ref := ownerOf(pod); displaced && ref != nil && pod.Spec.NodeName != "" {
		owner := string(ref.UID)
		rec.pods.waiting[owner] = append(rec.pods.waiting[owner], lost{rec.workloadOf(pod), pod.Spec.NodeName})
	}
}

// adoptPlace pairs a new pod with one that had to go.
func (rec *recorder) adoptPlace(pod *corev1.Pod) {
	ref := ownerOf(pod)
	if ref == nil || len(rec.pods.waiting[string(ref.UID)]) == 0 {
		return
	}
	list := rec.pods.waiting[string(ref.UID)]
	rec.pods.replaces[pod.UID] = list[0]
	rec.pods.waiting[string(ref.UID)] = list[1:]
}

func (rec *recorder) placed(pod *corev1.Pod) {
	from, ok := rec.pods.replaces[pod.UID]
	if ok && from.node != pod.Spec.NodeName {
		rec.pods.moves[move{from.workload, from.node, pod.Spec.NodeName}]++
	}
}

// workloadOf names the workload that a pod belongs to.
func (rec *recorder) workloadOf(pod *corev1.Pod) string {
	ref := ownerOf(pod)
	if ref.Kind == "ReplicaSet" {
		for _, res := range workloadKinds {
			if res.Kind != ref.Kind {
				continue
			}
			if o, ok := rec.run.world.Truth().Get(res, pod.Namespace, ref.Name); ok {
				if up := ownerOf(o); up != nil {
					ref = up
				}
			}
		}
	}
	return rec.named(pod.Namespace, strings.ToLower(ref.Kind)+"/"+ref.Name)
}

// sayPod puts a line about a pod into the timeline; those of one owner are counted together.
func (rec *recorder) sayPod(pod *corev1.Pod, what, node string) {
	l := line{at: rec.elapsed(), kind: "Pod", object: rec.named(pod.Namespace, "pod/"+pod.Name), what: what, node: node, n: 1, matters: true}
	if ref := ownerOf(pod); ref != nil {
		l.of = rec.named(pod.Namespace, ref.Name)
		l.fixed = ref.Kind == "StatefulSet"
	}
	rec.put(l)
}

func (rec *recorder) touch() { rec.last = rec.run.world.Now() }

// moved lists the moves, the largest first.
func (t *podTally) moved() []Move {
	var out []Move
	for m, n := range t.moves {
		out = append(out, Move{m.workload, m.from, m.to, n})
	}
	slices.SortFunc(out, func(a, b Move) int {
		return cmp.Or(b.Pods-a.Pods, strings.Compare(a.Workload, b.Workload), strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	})
	return out
}
