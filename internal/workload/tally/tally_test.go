package tally_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"coracle/internal/drain"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/workload/tally"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// draw makes a pod of any standing.
func draw(t *rapid.T, name string) *corev1.Pod {
	at := func(label string) metav1.Time {
		return metav1.Time{Time: epoch.Add(-time.Duration(rapid.IntRange(0, 20).Draw(t, label)) * time.Second)}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", CreationTimestamp: at("created"),
		Labels: map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}}}
	if rapid.IntRange(0, 5).Draw(t, "odd") == 0 {
		pod.Labels["own"] = name // many groups
	}
	if text := rapid.SampledFrom([]string{"", "", "5s", "0s", "?"}).Draw(t, "timeout"); text != "" {
		pod.Annotations = map[string]string{drain.Timeout: text}
	}
	pod.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodFailed}).Draw(t, "phase")
	pod.Status.Reason = rapid.SampledFrom([]string{"", "OutOfcpu"}).Draw(t, "reason")
	if rapid.Bool().Draw(t, "bad") {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse})
	}
	if rapid.Bool().Draw(t, "ready") {
		c := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at("since")}
		if rapid.IntRange(0, 4).Draw(t, "unsaid") == 0 {
			c.LastTransitionTime = metav1.Time{}
		}
		pod.Status.Conditions = append(pod.Status.Conditions, c)
	}
	if rapid.IntRange(0, 4).Draw(t, "leaving") == 0 {
		pod.DeletionTimestamp = &metav1.Time{Time: epoch}
	}
	return pod
}

// TestTally: after any changes the tally says of the pods what looking at each of them says.
func TestTally(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kept, pods := tally.New(), map[string]*corev1.Pod{}
		for range rapid.IntRange(0, 80).Draw(t, "changes") {
			name := fmt.Sprintf("pod-%02d", rapid.IntRange(0, 25).Draw(t, "name"))
			before, there := pods[name]
			switch after := draw(t, name); {
			case !there:
				kept.Change(nil, after)
				pods[name] = after
			case rapid.IntRange(0, 3).Draw(t, "gone") == 0:
				kept.Change(before, nil)
				delete(pods, name)
			default:
				kept.Change(before, after)
				pods[name] = after
			}
		}
		minReady := time.Duration(rapid.SampledFrom([]int{0, 1, 7}).Draw(t, "minReady")) * time.Second
		want, got := map[string]*account{}, map[string]*account{}
		for _, pod := range pods {
			bound, _ := drain.Bound(pod)
			of(want, pod.Labels, bound).look(pod, minReady)
		}
		for _, g := range kept.Groups() {
			of(got, g.Labels, g.Bound).read(g, minReady)
		}
		for k, a := range want {
			if b := got[k]; b == nil || a.String() != b.String() {
				t.Fatalf("%s:\n%v, want\n%v", k, b, a)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d groups, want %d", len(got), len(want))
		}
	})
}

func of(all map[string]*account, labels map[string]string, bound time.Duration) *account {
	k := fmt.Sprint(labels, bound)
	if all[k] == nil {
		all[k] = &account{bound: bound}
	}
	return all[k]
}

// account is all that can be asked of a group, at epoch.
type account struct {
	bound                                                 time.Duration
	members, active, terminating, ready, avail, refusedBy int
	next                                                  time.Time
	young, ripening, bad, slow, leaving, refused          []string
}

func (a *account) String() string {
	for _, names := range []*[]string{&a.young, &a.ripening, &a.bad, &a.slow, &a.leaving, &a.refused} {
		slices.Sort(*names)
	}
	return fmt.Sprintf("%d members, %d active, %d terminating, %d ready, %d available, next %s, %d refused; young %v ripening %v bad %v slow %v leaving %v refused %v",
		a.members, a.active, a.terminating, a.ready, a.avail, a.next.UTC(), a.refusedBy, a.young, a.ripening, a.bad, a.slow, a.leaving, a.refused)
}

func (a *account) look(pod *corev1.Pod, minReady time.Duration) {
	a.members++
	seconds := int32(minReady / time.Second)
	switch {
	case podstate.Terminating(pod):
		a.terminating++
		a.leaving = append(a.leaving, pod.Name)
	case podstate.Active(pod) && !podstate.Ready(pod):
		a.active++
		if podstate.LooksBad(pod) {
			a.bad = append(a.bad, pod.Name)
		} else {
			a.slow = append(a.slow, pod.Name)
		}
	case podstate.Active(pod):
		a.active++
		a.ready++
		if podstate.Available(pod, seconds, epoch) {
			a.avail++
		} else {
			a.ripening = append(a.ripening, pod.Name)
		}
		if at, known := podstate.AvailableAt(pod, seconds); seconds > 0 && known && at.After(epoch) && (a.next.IsZero() || at.Before(a.next)) {
			a.next = at
		}
		if drain.KnownBy(pod).After(epoch) {
			a.young = append(a.young, pod.Name)
		}
	case podstate.Refused(pod) && pod.DeletionTimestamp == nil:
		a.refusedBy++
		a.refused = append(a.refused, pod.CreationTimestamp.UTC().String())
		slices.Sort(a.refused)
		a.refused = slices.Compact(a.refused)
	}
}

func (a *account) read(g *tally.Group, minReady time.Duration) {
	a.members, a.active, a.terminating, a.ready, a.refusedBy = g.Members, g.Active, g.Terminating, g.Ready(), g.Refused()
	a.avail, a.next = g.Available(minReady, epoch)
	a.young, a.ripening = slices.Collect(g.Young(epoch)), slices.Collect(g.Ripening(minReady, epoch))
	a.bad, a.slow, a.leaving = slices.Collect(g.Unready(true)), slices.Collect(g.Unready(false)), slices.Collect(g.Leaving())
	for before := (time.Time{}); ; {
		_, at, found := g.LastRefused(before)
		if !found {
			return
		}
		a.refused, before = append(a.refused, at.UTC().String()), at
	}
}

// TestSummary: the pods that are counted are those of the kinds that ask.
func TestSummary(t *testing.T) {
	yes := true
	for kind, want := range map[string]bool{"ReplicaSet": true, "ReplicationController": true, "StatefulSet": false, "": false} {
		pod := &corev1.Pod{}
		if kind != "" {
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: kind, UID: "u", Controller: &yes}}
		}
		if got := tally.Summary.Of(pod); got != want {
			t.Errorf("a pod of %q: %v", kind, got)
		}
	}
	var _ object.Tally = tally.New()
}
