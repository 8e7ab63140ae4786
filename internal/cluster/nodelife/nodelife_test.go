package nodelife_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/nodelife"
	"coracle/internal/loop/looptest"
	"coracle/internal/resource"
)

func run(t *testing.T, cfg nodelife.Config) *looptest.Cluster {
	return looptest.Run(t, fake.New(), nodelife.Controllers(cfg)...)
}

// readyNode makes a node that has just reported itself ready, with its lease.
func readyNode(c *looptest.Cluster, name string) *corev1.Node {
	now := metav1.NewTime(time.Now())
	n := looptest.Make(c, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now,
		}}},
	})
	looptest.Make(c, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: nodelife.LeaseNamespace, Name: name},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: now.Time}},
	})
	return n
}

func renew(c *looptest.Cluster, name string) {
	looptest.Edit(c, resource.Leases, nodelife.LeaseNamespace, name, func(l *coordinationv1.Lease) {
		l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	})
}

func setReady(c *looptest.Cluster, name string, status corev1.ConditionStatus) {
	looptest.Edit(c, resource.Nodes, "", name, func(n *corev1.Node) {
		for i := range n.Status.Conditions {
			if n.Status.Conditions[i].Type == corev1.NodeReady {
				n.Status.Conditions[i].Status = status
				n.Status.Conditions[i].LastHeartbeatTime = metav1.NewTime(time.Now())
			}
		}
	})
}

func taints(c *looptest.Cluster, name string) string {
	var out []string
	for _, t := range looptest.Find[*corev1.Node](c, resource.Nodes, "", name).Spec.Taints {
		out = append(out, strings.TrimPrefix(t.ToString(), "node.kubernetes.io/"))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func ready(c *looptest.Cluster, name string) corev1.NodeCondition {
	for _, cond := range looptest.Find[*corev1.Node](c, resource.Nodes, "", name).Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond
		}
	}
	return corev1.NodeCondition{}
}

func onNode(name, node string, tolerations ...corev1.Toleration) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Tolerations: tolerations},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue},
		}},
	}
}

func tolerate(key string, seconds int64) corev1.Toleration {
	return corev1.Toleration{Key: "node.kubernetes.io/" + key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}
}

func terminating(c *looptest.Cluster) []string {
	var out []string
	for _, o := range c.View.List(resource.Pods, "d") {
		if o.GetDeletionTimestamp() != nil {
			out = append(out, o.GetName())
		}
	}
	return out
}

// TestSilentNode follows a node that dies: 40 s to NotReady, then each pod after its patience.
func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, nodelife.Config{})
		dead := readyNode(c, "dead")
		readyNode(c, "alive")
		looptest.Make(c, onNode("impatient", "dead"))
		looptest.Make(c, onNode("usual", "dead", tolerate("unreachable", 300), tolerate("not-ready", 300)))
		looptest.Make(c, onNode("daemon", "dead", corev1.Toleration{Operator: corev1.TolerationOpExists}))
		looptest.Make(c, onNode("elsewhere", "alive"))
		beat := func(d time.Duration) {
			for range d / (10 * time.Second) {
				time.Sleep(10 * time.Second)
				renew(c, "alive")
				synctest.Wait()
			}
			looptest.Rest()
		}
		time.Sleep(20 * time.Second)
		renew(c, "dead")
		beat(30 * time.Second)
		if got := ready(c, "dead").Status; got != corev1.ConditionTrue {
			t.Fatalf("judged %s 30 s after its last heartbeat", got)
		}
		beat(10 * time.Second)
		if got := ready(c, "dead"); got.Status != corev1.ConditionUnknown || got.Reason != "NodeStatusUnknown" || got.Message != "Kubelet stopped posting node status." {
			t.Errorf("40 s after its last heartbeat: %+v", got)
		}
		if got := taints(c, "dead"); got != "unreachable:NoExecute unreachable:NoSchedule" {
			t.Errorf("taints: %s", got)
		}
		if got := taints(c, "alive"); got != "" {
			t.Errorf("taints of the living: %s", got)
		}
		if d := cmp.Diff([]string{"impatient"}, terminating(c)); d != "" {
			t.Errorf("at once: %s", d)
		}
		if p := looptest.Find[*corev1.Pod](c, resource.Pods, "d", "daemon"); p.Status.Conditions[0].Status != corev1.ConditionFalse {
			t.Error("a pod of the dead node is still ready")
		}
		if got := looptest.Reasons(c, dead); !slices.Equal(got, []string{"NodeNotReady"}) {
			t.Errorf("events: %v", got)
		}
		beat(290 * time.Second)
		if d := cmp.Diff([]string{"impatient"}, terminating(c)); d != "" {
			t.Errorf("before its patience is over: %s", d)
		}
		beat(20 * time.Second)
		if d := cmp.Diff([]string{"impatient", "usual"}, terminating(c)); d != "" {
			t.Errorf("after 300 s: %s", d)
		}
		evicted := looptest.Find[*corev1.Pod](c, resource.Pods, "d", "usual")
		if last := evicted.Status.Conditions[len(evicted.Status.Conditions)-1]; last.Type != corev1.DisruptionTarget || last.Reason != "DeletionByTaintManager" {
			t.Errorf("conditions: %+v", evicted.Status.Conditions)
		}
		renew(c, "dead")
		setReady(c, "dead", corev1.ConditionTrue)
		beat(10 * time.Second)
		if got := taints(c, "dead"); got != "" {
			t.Errorf("taints after its return: %s", got)
		}
	})
}

// TestNoEvictionWhileNoNodeIsReady: nothing would be gained by it.
func TestNoEvictionWhileNoNodeIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, nodelife.Config{})
		readyNode(c, "a")
		readyNode(c, "b")
		looptest.Make(c, onNode("p", "a"))
		time.Sleep(time.Hour)
		looptest.Rest()
		if got := taints(c, "a"); got != "unreachable:NoSchedule" || len(terminating(c)) > 0 {
			t.Errorf("taints %q, terminating %v", got, terminating(c))
		}
		renew(c, "b")
		setReady(c, "b", corev1.ConditionTrue)
		looptest.Rest()
		if got := taints(c, "a"); got != "unreachable:NoExecute unreachable:NoSchedule" || len(terminating(c)) != 1 {
			t.Errorf("once another is ready: taints %q, terminating %v", got, terminating(c))
		}
	})
}

// TestServerWasAway: heartbeats that could not be received are not held against the nodes.
func TestServerWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake.New()
		first := looptest.Run(t, f)
		readyNode(first, "n")
		time.Sleep(time.Hour)
		c := looptest.Run(t, f, nodelife.Controllers(nodelife.Config{})...)
		time.Sleep(30 * time.Second)
		looptest.Rest()
		if got := ready(c, "n").Status; got != corev1.ConditionTrue {
			t.Errorf("judged %s before it could report", got)
		}
		time.Sleep(11 * time.Second)
		looptest.Rest()
		if got := ready(c, "n").Status; got != corev1.ConditionUnknown {
			t.Errorf("still %s", got)
		}
	})
}

func TestTaintsFollowConditionsAndCordon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, nodelife.Config{})
		readyNode(c, "n")
		readyNode(c, "other")
		looptest.Edit(c, resource.Nodes, "", "n", func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoExecute}}
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
		})
		looptest.Rest()
		if got := taints(c, "n"); got != "disk-pressure:NoSchedule mine:NoExecute unschedulable:NoSchedule" {
			t.Errorf("taints: %s", got)
		}
		if looptest.Find[*corev1.Node](c, resource.Nodes, "", "n").Spec.Taints[0].TimeAdded == nil {
			t.Error("nobody can tell how long the user's taint is tolerated")
		}
		setReady(c, "n", corev1.ConditionFalse)
		looptest.Edit(c, resource.Nodes, "", "n", func(n *corev1.Node) { n.Spec.Unschedulable = false })
		looptest.Rest()
		if got := taints(c, "n"); got != "disk-pressure:NoSchedule mine:NoExecute not-ready:NoExecute not-ready:NoSchedule" {
			t.Errorf("taints: %s", got)
		}
	})
}

func TestUserTaintIsToleratedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, nodelife.Config{})
		n := readyNode(c, "n")
		seconds := int64(5)
		looptest.Make(c, onNode("p", "n", corev1.Toleration{Key: "mine", Operator: corev1.TolerationOpExists, TolerationSeconds: &seconds}))
		looptest.Make(c, onNode("q", "n", corev1.Toleration{Key: "mine", Value: "no"}))
		looptest.Make(c, onNode("r", "n", corev1.Toleration{Key: "mine", Value: "yes"}))
		looptest.Edit(c, resource.Nodes, "", n.Name, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "mine", Value: "yes", Effect: corev1.TaintEffectNoExecute}}
		})
		time.Sleep(4 * time.Second)
		looptest.Rest()
		if d := cmp.Diff([]string{"q"}, terminating(c)); d != "" {
			t.Error(d)
		}
		time.Sleep(time.Second)
		looptest.Rest()
		if d := cmp.Diff([]string{"p", "q"}, terminating(c)); d != "" {
			t.Error(d)
		}
	})
}

func TestPodCollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, nodelife.Config{TerminatedPods: 2})
		n, out := readyNode(c, "gone"), readyNode(c, "out")
		readyNode(c, "alive")
		looptest.Make(c, onNode("lost", "gone"))
		looptest.Make(c, onNode("never", "no-such-node"))
		stuck := looptest.Make(c, onNode("stuck", "out", corev1.Toleration{Operator: corev1.TolerationOpExists}))
		looptest.Make(c, onNode("fine", "alive"))
		looptest.Remove(c, n, "")
		looptest.Remove(c, stuck, "")
		time.Sleep(35 * time.Second)
		renew(c, "alive")
		time.Sleep(10 * time.Second)
		looptest.Rest()
		if d := cmp.Diff([]string{"fine", "stuck"}, looptest.Names(c, resource.Pods, "d")); d != "" {
			t.Fatal(d)
		}
		looptest.Edit(c, resource.Nodes, "", out.Name, func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
		})
		looptest.Rest()
		if d := cmp.Diff([]string{"fine"}, looptest.Names(c, resource.Pods, "d")); d != "" {
			t.Error(d)
		}
		for i := range 4 {
			p := onNode(fmt.Sprintf("done-%d", i), "alive")
			p.Status.Phase = corev1.PodSucceeded
			looptest.Make(c, p)
			time.Sleep(time.Second)
		}
		looptest.Rest()
		if d := cmp.Diff([]string{"done-2", "done-3", "fine"}, looptest.Names(c, resource.Pods, "d")); d != "" {
			t.Error(d)
		}
	})
}

func TestRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, nodelife.Config{PodRange: netip.MustParsePrefix("10.1.0.0/22")})
		given := func(name string) string {
			return looptest.Find[*corev1.Node](c, resource.Nodes, "", name).Spec.PodCIDR
		}
		var nodes []*corev1.Node
		for i := range 5 {
			nodes = append(nodes, readyNode(c, fmt.Sprintf("n%d", i)))
		}
		looptest.Rest()
		var got []string
		for _, n := range nodes {
			got = append(got, given(n.Name))
		}
		slices.Sort(got)
		if d := cmp.Diff([]string{"", "10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"}, got); d != "" {
			t.Fatal(d)
		}
		var poor, freed *corev1.Node
		for _, n := range nodes {
			if given(n.Name) == "" {
				poor = n
			} else {
				freed = n
			}
		}
		if got := looptest.Reasons(c, poor); !slices.Contains(got, "CIDRNotAvailable") {
			t.Errorf("events: %v", got)
		}
		want := given(freed.Name)
		looptest.Remove(c, freed, "")
		looptest.Rest()
		if got := given(poor.Name); got != want {
			t.Errorf("given %q, want the freed %q", got, want)
		}
	})
}

// TestSharedLease: nodes that live by one lease need no decision when it is renewed, and are all
// lost when it no longer is.
func TestSharedLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, nodelife.Config{})
		readyNode(c, "together") // its lease is what the others name
		const n = 20
		for i := range n {
			looptest.Make(c, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%02d", i), Annotations: map[string]string{nodelife.HeartbeatLease: "together"}},
				Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
					Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(time.Now()),
				}}},
			})
		}
		time.Sleep(time.Second)
		for range 3 {
			renew(c, "together")
			synctest.Wait()
			before := c.Loop.Counters.Passes.Load()
			time.Sleep(time.Second)
			renew(c, "together")
			looptest.Rest()
			if got := c.Loop.Counters.Passes.Load() - before; got > 0 {
				t.Errorf("a renewal asks for %d decisions", got)
			}
			time.Sleep(9 * time.Second)
		}
		for range 12 {
			time.Sleep(10 * time.Second)
			renew(c, "together")
		}
		looptest.Rest()
		lost := func() (out int) {
			for i := range n {
				if ready(c, fmt.Sprintf("n%02d", i)).Status != corev1.ConditionTrue {
					out++
				}
			}
			return out
		}
		if got := lost(); got != 0 {
			t.Errorf("%d nodes are lost while the lease is renewed", got)
		}
		time.Sleep(41 * time.Second)
		looptest.Rest()
		if got := lost(); got != n {
			t.Errorf("%d of %d nodes are lost when it no longer is", got, n)
		}
	})
}
