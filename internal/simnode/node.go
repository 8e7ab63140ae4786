package simnode

import (
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/cluster/volume"
	"coracle/internal/nodestate"
)

// Lease is the name of the one lease, in nodelife.LeaseNamespace, by whose renewal all simulated
// nodes show that they live.
const Lease = "simulated-nodes"

// volumeRoot is where a simulated node says that it keeps local volumes, so that claims of the
// local class can be bound to it. There is no such directory.
const volumeRoot = "/simulated"

// Labels that a simulated node has unless its maker gave it others. The first selects them.
func labels(name string) map[string]string {
	return map[string]string{
		nodestate.SimulatedAnnotation: "true", corev1.LabelInstanceTypeStable: "simulated", corev1.LabelHostname: name,
		corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
	}
}

// The size of a simulated node whose maker did not say.
var defaultCapacity = corev1.ResourceList{
	corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"),
	corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"), corev1.ResourcePods: resource.MustParse("110"),
}

// NewNode returns a simulated node as it is created. Its range of pod addresses may be left to
// others: then it is empty.
func NewNode(name, podCIDR string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: labels(name),
			Annotations: map[string]string{
				nodestate.SimulatedAnnotation: "true", nodelife.HeartbeatLease: Lease, volume.RootAnnotation: volumeRoot,
			},
		},
		Spec:   corev1.NodeSpec{PodCIDR: podCIDR},
		Status: corev1.NodeStatus{Capacity: defaultCapacity.DeepCopy(), Allocatable: defaultCapacity.DeepCopy()},
	}
}

// Silent says whether a node is to be as a lost machine is.
func Silent(node *corev1.Node) bool { return node.Annotations[Fault] == FaultSilent }

// NodeStep is what a simulated node says of itself now: at most one of Object and Status is set.
type NodeStep struct {
	// Object is the node with its next labels and annotations; Status the node with its next
	// status.
	Object, Status *corev1.Node
	// Again is when to look again though nothing changes; zero means never.
	Again time.Time
}

// rangePatience is how long a new node waits for its range of pod addresses before it says that
// it has none.
const rangePatience = 2 * time.Second

// NextNode returns the next step of a simulated node. Nothing that its maker gave it is changed.
func NextNode(node *corev1.Node, version string, now time.Time) NodeStep {
	if Silent(node) {
		return fallSilent(node, now)
	}
	if next := adopt(node); next != nil {
		return NodeStep{Object: next}
	}
	if wait := node.CreationTimestamp.Add(rangePatience); node.Spec.PodCIDR == "" && len(node.Status.Conditions) == 0 && now.Before(wait) {
		return NodeStep{Again: wait}
	}
	next := node.DeepCopy()
	describe(next, version)
	for _, c := range nodeConditions(next) {
		setNodeCondition(&next.Status, c, now)
	}
	if equality.Semantic.DeepEqual(&node.Status, &next.Status) {
		return NodeStep{}
	}
	return NodeStep{Status: next}
}

// lastWords is how fresh the last heartbeat of a node that falls silent must be.
const lastWords = 5 * time.Second

// fallSilent gives a node a last heartbeat of its own, from which its silence counts, and then
// takes it off the shared one.
func fallSilent(node *corev1.Node, now time.Time) NodeStep {
	if _, beats := node.Annotations[nodelife.HeartbeatLease]; !beats {
		return NodeStep{}
	}
	next := node.DeepCopy()
	for i := range next.Status.Conditions {
		c := &next.Status.Conditions[i]
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && now.Sub(c.LastHeartbeatTime.Time) > lastWords {
			c.LastHeartbeatTime = second(now)
			return NodeStep{Status: next}
		}
	}
	delete(next.Annotations, nodelife.HeartbeatLease)
	return NodeStep{Object: next}
}

// adopt returns the node with the labels and annotations that it lacks; nil when it lacks none.
func adopt(node *corev1.Node) *corev1.Node {
	missing := labels(node.Name)
	maps.DeleteFunc(missing, func(key, _ string) bool { _, has := node.Labels[key]; return has })
	_, keeps := node.Annotations[volume.RootAnnotation]
	if len(missing) == 0 && keeps && node.Annotations[nodelife.HeartbeatLease] == Lease {
		return nil
	}
	next := node.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	maps.Copy(next.Labels, missing)
	next.Annotations[nodelife.HeartbeatLease] = Lease
	if !keeps {
		next.Annotations[volume.RootAnnotation] = volumeRoot
	}
	return next
}

// describe fills in what the node's maker left open.
func describe(node *corev1.Node, version string) {
	st := &node.Status
	fill(&st.Capacity, defaultCapacity)
	fill(&st.Allocatable, st.Capacity)
	if ranges := Ranges(node); len(ranges) > 0 && len(st.Addresses) == 0 {
		for _, p := range ranges {
			st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: p.Addr().Next().String()})
		}
		st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: node.Name})
	}
	info := &st.NodeInfo
	for field, value := range map[*string]string{
		&info.OperatingSystem: "linux", &info.Architecture: runtime.GOARCH, &info.OSImage: "simulated", &info.KernelVersion: "simulated",
		&info.ContainerRuntimeVersion: "simulated://" + version,
	} {
		if *field == "" {
			*field = value
		}
	}
	info.KubeletVersion = version
}

func fill(list *corev1.ResourceList, from corev1.ResourceList) {
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	for name, quantity := range from {
		if _, has := (*list)[name]; !has {
			(*list)[name] = quantity.DeepCopy()
		}
	}
}

// Ranges are those of a node's pods, one of each family that they have addresses of. The first address of each is the node's.
func Ranges(node *corev1.Node) (out []netip.Prefix) {
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 {
		texts = []string{node.Spec.PodCIDR}
	}
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

const notReady = "KubeletNotReady"

// nodeConditions says how the node is, in the kubelet's words.
func nodeConditions(node *corev1.Node) []corev1.NodeCondition {
	ready := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "simulated kubelet is posting ready status",
	}
	if node.Spec.PodCIDR == "" {
		ready.Status, ready.Reason = corev1.ConditionFalse, notReady
		ready.Message = "container runtime network not ready: the node has no pod range (spec.podCIDR) yet"
	}
	return []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		ready,
	}
}

// setNodeCondition sets a condition that is missing, that was made unknown while the node was
// silent, or that said why the node could not be ready yet. Any other is somebody's who tries how
// his workloads fare under it. Its heartbeat is that moment: the lease tells the others.
func setNodeCondition(st *corev1.NodeStatus, c corev1.NodeCondition, now time.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = second(now), second(now)
	for i := range st.Conditions {
		have := &st.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		if have.Status == corev1.ConditionUnknown || have.Reason == notReady && c.Reason != notReady {
			*have = c
		}
		return
	}
	st.Conditions = append(st.Conditions, c)
}

// Recovered returns a node that says again how it is, after others had to say that they do not know, or after it could
// not be ready yet; nil when it need not.
func Recovered(node *corev1.Node, now time.Time) *corev1.Node {
	ranged := node.Spec.PodCIDR != ""
	if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Status == corev1.ConditionUnknown || ranged && c.Reason == notReady
	}) {
		return nil
	}
	next := node.DeepCopy()
	for _, c := range nodeConditions(next) {
		setNodeCondition(&next.Status, c, now)
	}
	return next
}
