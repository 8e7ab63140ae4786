package simnode

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/nodestate"
	"coracle/internal/podstate"
)

// TestNoEndlessWrites: whatever the annotations and whenever one looks, a second look at the same
// moment finds nothing to write, the next look is in the future, restarts are never taken back
// and an ended pod stays as it ended.
func TestNoEndlessWrites(t *testing.T) {
	durations := rapid.SampledFrom([]string{"0s", "400ms", "1s", "3s", "1s-4s", "11m", "nonsense", "-1s", "5s-2s"})
	values := map[string]*rapid.Generator[string]{
		StartAfter: durations, ReadyAfter: durations, CrashAfter: durations, FinishAfter: durations, TerminateAfter: durations,
		NeverReady: rapid.SampledFrom([]string{"true", "false", "1"}), ImagePullError: rapid.SampledFrom([]string{"true", "false", ""}),
		ExitCode: rapid.SampledFrom([]string{"0", "1", "255", "256", "x"}),
	}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) map[string]string {
			out := map[string]string{}
			for _, name := range []string{StartAfter, ReadyAfter, CrashAfter, FinishAfter, TerminateAfter, NeverReady, ImagePullError, ExitCode} {
				if rapid.IntRange(0, 3).Draw(t, label) == 0 {
					out[name] = values[name].Draw(t, name)
				}
			}
			return out
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: draw("node")}}
		always := corev1.ContainerRestartPolicyAlways
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", UID: types.UID(rapid.StringN(1, 8, -1).Draw(t, "uid")), Annotations: draw("pod"), CreationTimestamp: second(epoch)},
			Spec: corev1.PodSpec{
				RestartPolicy:  rapid.SampledFrom([]corev1.RestartPolicy{"Always", "OnFailure", "Never"}).Draw(t, "restarts"),
				Containers:     []corev1.Container{{Name: "c", Image: "i"}},
				InitContainers: rapid.SampledFrom([][]corev1.Container{nil, {{Name: "a", Image: "i"}, {Name: "b", Image: "i", RestartPolicy: &always}}}).Draw(t, "inits"),
			},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		}
		now, since := epoch, epoch
		for range 30 {
			in := Input{Pod: pod, Node: node, Address: netip.MustParseAddr("10.0.0.2"), Since: since, Now: now}
			step := Next(in)
			if !step.Again.IsZero() && !step.Again.After(now) {
				t.Fatalf("at %s look again at %s", now, step.Again)
			}
			since = step.Since
			if step.Status != nil {
				if podstate.Ended(pod) && pod.DeletionTimestamp == nil {
					t.Fatalf("an ended pod changes: %s", cmp.Diff(pod.Status, *step.Status))
				}
				next := pod.DeepCopy()
				next.Status = *step.Status.DeepCopy()
				if restarts(next) < restarts(pod) {
					t.Fatalf("restarts went from %d to %d", restarts(pod), restarts(next))
				}
				in.Pod, in.Since, pod = next, since, next
				if second := Next(in); second.Status != nil {
					t.Fatalf("written twice: %s", cmp.Diff(pod.Status, *second.Status))
				}
			}
			if step.Gone {
				return
			}
			switch rapid.IntRange(0, 9).Draw(t, "next") {
			case 0: // the server restarts
				since = time.Time{}
			case 1:
				now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			case 2:
				if pod.DeletionTimestamp == nil {
					grace := int64(rapid.IntRange(0, 3).Draw(t, "grace"))
					at := metav1.NewTime(second(now).Add(time.Duration(grace) * time.Second))
					pod = pod.DeepCopy()
					pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds, since = &at, &grace, now
				}
			default:
				if !step.Again.IsZero() {
					now = step.Again
				}
			}
		}
	})
}

func restarts(pod *corev1.Pod) (n int32) {
	for i := range pod.Status.ContainerStatuses {
		n += pod.Status.ContainerStatuses[i].RestartCount
	}
	return n
}

// TestRange: a range is the same for one pod, spreads over many and keeps its bounds.
func TestRange(t *testing.T) {
	seen := map[time.Duration]int{}
	for i := range 1000 {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprintf("pod-%d", i)), Annotations: map[string]string{ReadyAfter: "1s-5s"}}}
		s, problems := Annotated(Behavior{}, pod, &corev1.Node{})
		again, _ := Annotated(Behavior{}, pod, &corev1.Node{})
		if len(problems) > 0 || s != again || s.ReadyAfter < time.Second || s.ReadyAfter > 5*time.Second {
			t.Fatalf("%+v, then %+v, problems %v", s, again, problems)
		}
		seen[s.ReadyAfter.Truncate(time.Second)]++
	}
	for _, whole := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second} {
		if seen[whole] < 150 {
			t.Errorf("%d of 1000 pods fall into the second from %s: %v", seen[whole], whole, seen)
		}
	}
}

func tell(s NodeStep) string {
	switch {
	case s.Object != nil:
		return "object"
	case s.Status != nil:
		return "status"
	}
	return "rest"
}

// settle plays a node's steps until it rests, and says which they were.
func settle(t *testing.T, node *corev1.Node, now time.Time) (*corev1.Node, []string) {
	t.Helper()
	var steps []string
	for range 10 {
		before := node.DeepCopy()
		step := NextNode(node, "v1", now)
		if !equality.Semantic.DeepEqual(before, node) {
			t.Fatal("the step changed its input")
		}
		steps = append(steps, tell(step))
		switch {
		case step.Object != nil:
			node = step.Object
		case step.Status != nil:
			node = step.Status
		default:
			return node, steps
		}
	}
	t.Fatalf("no rest: %v", steps)
	return nil, nil
}

func nodeCondition(n *corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// TestNodeOfOnesOwn: a node that a user applied keeps all that he gave it, and gets the rest.
func TestNodeOfOnesOwn(t *testing.T) {
	given := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: "gpu", CreationTimestamp: second(epoch), Annotations: map[string]string{nodestate.SimulatedAnnotation: "true"},
			Labels: map[string]string{corev1.LabelInstanceTypeStable: "p5", corev1.LabelTopologyZone: "a"},
		},
		Spec: corev1.NodeSpec{PodCIDR: "10.9.0.0/24", Taints: []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{
			Capacity:   corev1.ResourceList{corev1.ResourceCPU: defaultCapacity[corev1.ResourceMemory]},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue, Reason: "Mine"}},
		},
	}
	n, steps := settle(t, given, epoch)
	if d := cmp.Diff([]string{"object", "status", "rest"}, steps); d != "" {
		t.Error(d)
	}
	want := map[string]string{
		corev1.LabelInstanceTypeStable: "p5", corev1.LabelTopologyZone: "a", corev1.LabelHostname: "gpu", corev1.LabelOSStable: "linux",
		corev1.LabelArchStable: n.Labels[corev1.LabelArchStable], nodestate.SimulatedAnnotation: "true",
	}
	if d := cmp.Diff(want, n.Labels); d != "" {
		t.Errorf("labels (-want +got): %s", d)
	}
	if n.Annotations[nodelife.HeartbeatLease] != Lease || !equality.Semantic.DeepEqual(n.Spec, given.Spec) {
		t.Errorf("annotations %v, spec %v", n.Annotations, n.Spec)
	}
	cpu, pods := n.Status.Allocatable[corev1.ResourceCPU], n.Status.Allocatable[corev1.ResourcePods]
	if cpu.String() != "256Gi" || pods.String() != "110" {
		t.Errorf("allocatable cpu %s pods %s", cpu.String(), pods.String())
	}
	if c := nodeCondition(n, corev1.NodeMemoryPressure); c.Status != corev1.ConditionTrue || c.Reason != "Mine" {
		t.Errorf("his own condition became %+v", c)
	}
	if c := nodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || n.Status.NodeInfo.KubeletVersion != "v1" {
		t.Errorf("ready %+v, info %+v", c, n.Status.NodeInfo)
	}
	if host := hostAddresses(n); !slices.Equal(host, []string{"10.9.0.1"}) {
		t.Errorf("address %q", host)
	}
}

// TestNodeWithoutRange waits for a while, then says what it lacks, and is ready once it has it.
func TestNodeWithoutRange(t *testing.T) {
	n := NewNode("n", "")
	n.CreationTimestamp = second(epoch)
	step := NextNode(n, "v1", epoch)
	if tell(step) != "rest" || !step.Again.Equal(second(epoch).Add(rangePatience)) {
		t.Fatalf("at once: %+v", step)
	}
	n, _ = settle(t, n, step.Again)
	if c := nodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionFalse || c.Reason != notReady {
		t.Errorf("without a range: %+v", c)
	}
	n.Spec.PodCIDR = "10.9.0.0/24"
	n, _ = settle(t, n, epoch.Add(time.Minute))
	if c := nodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue {
		t.Errorf("with a range: %+v", c)
	}
}

// TestSilence: a node that falls silent leaves a last heartbeat and the shared lease; one that
// comes back takes up both.
func TestSilence(t *testing.T) {
	n := NewNode("n", "")
	n.CreationTimestamp, n.Spec.PodCIDR = second(epoch), "10.9.0.0/24"
	n, _ = settle(t, n, epoch)
	n.Annotations[Fault] = FaultSilent
	later := epoch.Add(time.Hour)
	n, steps := settle(t, n, later)
	if d := cmp.Diff([]string{"status", "object", "rest"}, steps); d != "" {
		t.Error(d)
	}
	if c := nodeCondition(n, corev1.NodeReady); !c.LastHeartbeatTime.Time.Equal(second(later).Time) || c.Status != corev1.ConditionTrue {
		t.Errorf("its last words: %+v", c)
	}
	if _, beats := n.Annotations[nodelife.HeartbeatLease]; beats {
		t.Error("it still lives by the shared lease")
	}
	for i := range n.Status.Conditions {
		n.Status.Conditions[i].Status = corev1.ConditionUnknown // as others judge it
	}
	delete(n.Annotations, Fault)
	n, _ = settle(t, n, later.Add(time.Hour))
	if c := nodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || n.Annotations[nodelife.HeartbeatLease] != Lease {
		t.Errorf("back: %+v, annotations %v", c, n.Annotations)
	}
}

func TestNodeProblems(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
		Fault: "fire", ReadyAfter: "soon", StartAfter: "1s", NeverReady: "yes", "coracle.io/other": "x",
	}}}
	var got []string
	for _, p := range NodeProblems(n) {
		got = append(got, p.Annotation)
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{Fault, NeverReady, ReadyAfter}, got); d != "" {
		t.Error(d)
	}
}
