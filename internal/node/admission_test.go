package node

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
)

// shaped is one("server:1") with changes.
func shaped(changes ...func(*corev1.PodSpec)) corev1.PodSpec {
	spec := one("server:1")
	for _, change := range changes {
		change(&spec)
	}
	return spec
}

func asks(name corev1.ResourceName, amount string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Containers[0].Resources.Requests = corev1.ResourceList{name: quantity.MustParse(amount)}
	}
}

func hostPort(n int32) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: n, Protocol: corev1.ProtocolTCP}}
	}
}

func selects(label string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{label: "yes"} }
}

func ranks(priority int32) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) { s.Priority = &priority }
}

// rejected fails the test unless a pod was refused for a reason, told in its status and by one event, and never ran.
func (w *world) rejected(name, reason, message string) {
	w.t.Helper()
	p := w.pod(name)
	if state := w.state(name); state != "Failed" {
		w.t.Errorf("pod %s is %q: what never began has no containers to show", name, state)
	}
	if p == nil || p.Status.Phase != corev1.PodFailed || p.Status.Reason != reason || !strings.HasPrefix(p.Status.Message, "Pod was rejected: "+message) {
		w.t.Errorf("after %s: pod %s: %s %+v", w.clock(), name, w.state(name), p.Status)
	}
	if got := w.events(name); !strings.HasPrefix(got, reason+": "+message) || strings.Contains(got, "\n") {
		w.t.Errorf("events of %s:\n%s", name, got)
	}
}

func TestNodeRefusesWhatItCannotRun(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("first", shaped(hostPort(8080)))
		w.settle(time.Second)
		w.create("port", shaped(hostPort(8080)))
		w.create("greedy", shaped(asks(corev1.ResourceCPU, "1000")))
		w.create("large", shaped(asks(corev1.ResourceMemory, "100Ti")))
		w.create("dongle", shaped(asks("example.com/dongle", "1")))
		w.create("elsewhere", shaped(selects("no-such-label")))
		w.create("foreign", shaped(func(s *corev1.PodSpec) { s.OS = &corev1.PodOS{Name: corev1.Windows} }))
		w.settle(time.Second)
		w.want("first", "Running ready main=running")
		w.rejected("port", "NodePorts", "Predicate NodePorts failed")
		w.rejected("greedy", "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1000000, used: 0")
		w.rejected("large", "OutOfmemory", "Node didn't have enough resource: memory")
		w.rejected("dongle", "OutOfexample.com/dongle", "Node didn't have enough resource: example.com/dongle, requested: 1, used: 0, capacity: 0")
		w.rejected("elsewhere", "NodeAffinity", "Predicate NodeAffinity failed")
		w.rejected("foreign", "PodOSNotSupported", "Failed to admit pod")
		if n := len(w.ids()); n != 1 {
			t.Errorf("%d containers ran", n)
		}

		// A taint that drives pods out keeps them out; one that only keeps the scheduler away does not.
		w.edit(func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}}
		})
		w.create("daemon", shaped())
		w.settle(time.Second)
		w.want("daemon", "Running ready main=running")
		w.edit(func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "b", Value: "c", Effect: corev1.TaintEffectNoExecute}}
		})
		w.settle(time.Second)
		w.create("tainted", shaped())
		w.settle(time.Second)
		w.rejected("tainted", "TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate: b=c:NoExecute")
	})
}

// TestRefusedPodsGo: a refused pod holds nothing and is removed like any other.
func TestRefusedPodsGo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("greedy", shaped(asks(corev1.ResourceCPU, "1000"), hostPort(8080)))
		w.settle(time.Second)
		w.create("port", shaped(hostPort(8080)))
		w.settle(time.Second)
		w.want("port", "Running ready main=running")
		w.delete("greedy", nil)
		w.delete("port", nil)
		w.settle(time.Second)
		w.want("greedy", "gone")
		w.want("port", "gone")
		w.clean()
	})
}

// TestRoomIsFreeOnceUsed: what an ended, deleted or lost pod held is the next one's; what one that is ending holds is not.
func TestRoomIsFreeOnceUsed(t *testing.T) {
	inWorld(t, func(w *world) {
		job := shaped(hostPort(8080))
		job.Containers[0].Image, job.RestartPolicy = "job:1", corev1.RestartPolicyNever
		w.create("job", job)
		w.settle(6 * time.Second)
		w.want("job", "Succeeded main=Completed(0)")
		stubborn := shaped(hostPort(8080))
		stubborn.Containers[0].Image = "stubborn:1"
		w.create("stubborn", stubborn)
		w.settle(time.Second)
		w.want("stubborn", "Running ready main=running")
		w.delete("stubborn", nil)
		w.settle(time.Second)
		w.create("hasty", shaped(hostPort(8080)))
		w.settle(time.Second)
		w.rejected("hasty", "NodePorts", "Predicate NodePorts failed")
		w.settle(30 * time.Second)
		w.want("stubborn", "gone")
		w.create("next", shaped(hostPort(8080)))
		w.settle(time.Second)
		w.want("next", "Running ready main=running")
		w.delete("next", new(int64(0)))
		w.create("after", shaped(hostPort(8080)))
		w.settle(5 * time.Second)
		w.want("after", "Running ready main=running")
	})
}

// TestAdmittedPodsAreNotJudgedAgain: neither a new agent nor a changed node undoes an admission, whether or not the API
// had heard of it; and those that came while no agent was there are judged, the oldest first.
func TestAdmittedPodsAreNotJudgedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.edit(func(n *corev1.Node) { n.Labels["ssd"] = "yes" })
		w.create("told", shaped(selects("ssd"), hostPort(8080)))
		w.settle(time.Second)
		w.refuseStatus.Store(true)
		w.create("untold", shaped(selects("ssd"), hostPort(8081)))
		w.settle(time.Second)
		if w.pod("untold").Status.StartTime != nil {
			t.Fatal("the API knows of it")
		}
		before := w.ids()
		w.stop()
		<-w.ended
		w.refuseStatus.Store(false)
		w.edit(func(n *corev1.Node) {
			delete(n.Labels, "ssd")
			n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}
		})
		everywhere := func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }
		w.create("late", shaped(hostPort(8081), everywhere))
		w.create("b-elder", shaped(hostPort(9090), everywhere))
		w.settle(2 * time.Second)
		w.create("a-younger", shaped(hostPort(9090), everywhere))
		w.start()
		w.settle(2 * time.Second)
		w.want("told", "Running ready main=running")
		w.want("untold", "Running ready main=running")
		w.rejected("late", "NodePorts", "Predicate NodePorts failed")
		w.want("b-elder", "Running ready main=running")
		w.rejected("a-younger", "NodePorts", "Predicate NodePorts failed")
		if after := w.ids(); len(after) != len(before)+1 {
			t.Errorf("containers before: %v, after: %v", before, after)
		}
	})
}

// TestRefusalsAreMadeOnTheNodeAsItIs: a label that the agent has not heard of yet counts.
func TestRefusalsAreMadeOnTheNodeAsItIs(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			w.edit(func(n *corev1.Node) { n.Labels["new-"+name] = "yes" })
			w.create(name, shaped(selects("new-"+name))) // at once: neither watch has been served
		}
		w.settle(time.Second)
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			w.want(name, "Running ready main=running")
		}
	})
}

// TestCriticalPodsFindRoom: they begin when those that made room for them have stopped, with all the time these ask for.
func TestCriticalPodsFindRoom(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.node().Status.Allocatable[corev1.ResourceCPU]
		most := quantity.NewMilliQuantity(n.MilliValue()-100, quantity.DecimalSI).String()
		stubborn := shaped(asks(corev1.ResourceCPU, most))
		stubborn.Containers[0].Image = "stubborn:1"
		w.create("stubborn", stubborn)
		w.settle(time.Second)
		w.create("important", shaped(asks(corev1.ResourceCPU, most), ranks(1_000_000_000)))
		w.create("critical", shaped(asks(corev1.ResourceCPU, most), ranks(2_000_000_000)))
		w.settle(10 * time.Second)
		w.rejected("important", "OutOfcpu", "Node didn't have enough resource")
		w.want("critical", "Pending main=ContainerCreating")
		w.settle(25 * time.Second)
		w.want("critical", "Running ready main=running")
		p := w.pod("stubborn")
		if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "Preempting" || !strings.Contains(w.events("stubborn"), "Preempting: Preempted in order to admit critical pod") {
			t.Errorf("%+v\n%s", p.Status, w.events("stubborn"))
		}
	})
}
