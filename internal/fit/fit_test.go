package fit_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/fit"
)

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func node(change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelOSStable: "linux", "disk": "ssd"}},
		Status:     corev1.NodeStatus{Allocatable: list("cpu", "4", "memory", "8Gi", "ephemeral-storage", "10Gi", "pods", "5", "example.com/dongle", "1")},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func pod(uid string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: uid, UID: types.UID(uid)},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func asks(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list(pairs...) }
}

func takes(number int32, ip string, protocol corev1.Protocol) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{HostPort: number, HostIP: ip, Protocol: protocol})
	}
}

func important(priority int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &priority }
}

func tainted(effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "k", Value: "v", Effect: effect})
	}
}

func requires(op corev1.NodeSelectorOperator, values ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: op, Values: values}}}}}}}
	}
}

// TestJudge: each reason in the kubelet's words, on a node with a pod that has 3 CPUs, the dongle and port 80.
func TestJudge(t *testing.T) {
	var held fit.Holdings
	held.Add(pod("there", asks("cpu", "3", "memory", "1Gi", "example.com/dongle", "1"), takes(80, "", ""), takes(90, "10.0.0.1", corev1.ProtocolUDP)))
	for _, tc := range []struct {
		name            string
		node            *corev1.Node
		pod             *corev1.Pod
		reason, message string
	}{
		{"a plain one", node(), pod("p"), "", ""},
		{"fills the node", node(), pod("p", asks("cpu", "1", "memory", "7Gi")), "", ""},
		{"cpu", node(), pod("p", asks("cpu", "1001m")), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1001, used: 3000, capacity: 4000"},
		{"memory", node(), pod("p", asks("memory", "8Gi")), "OutOfmemory",
			"Node didn't have enough resource: memory, requested: 8589934592, used: 1073741824, capacity: 8589934592"},
		{"disk", node(), pod("p", asks("ephemeral-storage", "11Gi")), "OutOfephemeral-storage",
			"Node didn't have enough resource: ephemeral-storage, requested: 11811160064, used: 0, capacity: 10737418240"},
		{"pods", node(func(n *corev1.Node) { n.Status.Allocatable["pods"] = resource.MustParse("1") }), pod("p"), "OutOfpods",
			"Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1"},
		{"an extended resource", node(), pod("p", asks("example.com/dongle", "1")), "OutOfexample.com/dongle",
			"Node didn't have enough resource: example.com/dongle, requested: 1, used: 1, capacity: 1"},
		{"an extended resource that the node lacks", node(), pod("p", asks("example.com/other", "2")), "OutOfexample.com/other",
			"Node didn't have enough resource: example.com/other, requested: 2, used: 0, capacity: 0"},
		{"huge pages", node(), pod("p", asks("hugepages-2Mi", "2Mi")), "OutOfhugepages-2Mi",
			"Node didn't have enough resource: hugepages-2Mi, requested: 2097152, used: 0, capacity: 0"},
		{"an init container asks", node(), pod("p", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: list("cpu", "2")}}}
		}), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000"},
		{"selector", node(), pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "tape"} }), "NodeAffinity",
			"Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"selector that matches", node(), pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), "", ""},
		{"affinity", node(), pod("p", requires(corev1.NodeSelectorOpNotIn, "ssd")), "NodeAffinity",
			"Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"affinity that matches", node(), pod("p", requires(corev1.NodeSelectorOpIn, "ssd", "tape")), "", ""},
		{"port", node(), pod("p", takes(80, "", corev1.ProtocolTCP)), "NodePorts",
			"Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: 80/TCP"},
		{"port of one address", node(), pod("p", takes(80, "10.0.0.2", "")), "NodePorts",
			"Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: 80/TCP"},
		{"port of another protocol", node(), pod("p", takes(80, "", corev1.ProtocolUDP)), "", ""},
		{"port of another address", node(), pod("p", takes(90, "10.0.0.2", corev1.ProtocolUDP)), "", ""},
		{"port of all addresses", node(), pod("p", takes(90, "", corev1.ProtocolUDP)), "NodePorts",
			"Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: 90/UDP"},
		{"no place to be scheduled", node(tainted(corev1.TaintEffectNoSchedule), func(n *corev1.Node) { n.Spec.Unschedulable = true }), pod("p"), "", ""},
		{"no place to run", node(tainted(corev1.TaintEffectNoExecute)), pod("p"), "TaintToleration",
			"Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate: k=v:NoExecute"},
		{"no place to run, tolerated", node(tainted(corev1.TaintEffectNoExecute)), pod("p", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
		}), "", ""},
		{"another system", node(), pod("p", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }), "PodOSNotSupported",
			"Failed to admit pod as the OS field doesn't match node OS"},
		{"this system", node(), pod("p", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Linux} }), "", ""},
		{"the label of another system", node(), pod("p", func(p *corev1.Pod) { p.Labels = map[string]string{corev1.LabelOSStable: "windows"} }),
			"PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"},
		{"the selector of another system", node(), pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelOSStable: "windows"} }),
			"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"resources before ports", node(), pod("p", asks("cpu", "2"), takes(80, "", "")), "OutOfcpu",
			"Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000"},
	} {
		got := held.Judge(tc.node, "linux", tc.pod)
		if got == nil {
			got = &fit.Refusal{}
		}
		if got.Reason != tc.reason || got.Message != tc.message {
			t.Errorf("%s: %s: %s", tc.name, got.Reason, got.Message)
		}
	}
}

// TestWhatEndsIsFree: what was counted is given back whole, and counting twice counts once.
func TestWhatEndsIsFree(t *testing.T) {
	var held fit.Holdings
	greedy := pod("a", asks("cpu", "4", "example.com/dongle", "1"), takes(80, "", ""))
	for range 3 {
		if r := held.Judge(node(), "linux", greedy); r != nil {
			t.Fatal(r)
		}
		held.Add(greedy)
		held.Add(greedy)
		if r := held.Judge(node(), "linux", pod("b", asks("cpu", "1"))); r == nil || !held.Has("a") {
			t.Fatalf("taken: %+v", r)
		}
		held.Remove("a")
		held.Remove("a")
	}
}

// TestPreempt: the fewest and least important give way to a critical pod, for resources only.
func TestPreempt(t *testing.T) {
	var held fit.Holdings
	guaranteed := func(p *corev1.Pod) { p.Status.QOSClass = corev1.PodQOSGuaranteed }
	held.Add(pod("system", asks("cpu", "1"), important(2_000_001_000)))
	held.Add(pod("much", asks("cpu", "2"), important(5)))
	held.Add(pod("little", asks("cpu", "500m")))
	held.Add(pod("little-guaranteed", asks("cpu", "500m"), guaranteed, takes(80, "", "")))
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		want []types.UID
	}{
		{"not critical", pod("p", asks("cpu", "1"), important(1_000_000_000)), nil},
		{"one is enough", pod("p", asks("cpu", "500m"), important(2_000_000_000)), []types.UID{"little"}},
		{"two small ones", pod("p", asks("cpu", "1"), important(2_000_000_000)), []types.UID{"little", "little-guaranteed"}},
		{"the large one, and small ones are spared", pod("p", asks("cpu", "2"), important(2_000_000_000)), []types.UID{"much"}},
		{"all but the critical", pod("p", asks("cpu", "3"), important(2_000_001_000)), []types.UID{"little", "little-guaranteed", "much"}},
		{"a critical one stays", pod("p", asks("cpu", "3500m"), important(2_000_001_500)), nil},
		{"a port is not taken from another", pod("p", asks("cpu", "500m"), takes(80, "", ""), important(2_000_000_000)), nil},
		{"an affinity is not mended by it", pod("p", asks("cpu", "500m"), requires(corev1.NodeSelectorOpIn, "tape"), important(2_000_000_000)), nil},
	} {
		got := held.Preempt(node(), "linux", tc.pod)
		slices.Sort(got)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// BenchmarkJudge: what admitting a pod costs a node that has a hundred.
func BenchmarkJudge(b *testing.B) {
	var held fit.Holdings
	n := node(func(n *corev1.Node) { n.Status.Allocatable = list("cpu", "1000", "memory", "1Ti", "pods", "200") })
	for i := range 100 {
		held.Add(pod(fmt.Sprint(i), asks("cpu", "1", "memory", "1Gi"), takes(int32(1000+i), "", "")))
	}
	p := pod("p", asks("cpu", "1", "memory", "1Gi"), takes(80, "", ""))
	b.ReportAllocs()
	for b.Loop() {
		if held.Judge(n, "linux", p) != nil {
			b.Fatal("refused")
		}
		held.Add(p)
		held.Remove(p.UID)
	}
}
