package why_test

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

func editNode(w *world, name string, change func(*corev1.Node)) {
	looptest.Edit(w.Cluster, resource.Nodes, "", name, change)
	w.settle()
}

func selecting(key, value string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{key: value} }
}

func apart(s *corev1.PodSpec) {
	s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: selector, TopologyKey: corev1.LabelHostname}}}}
}

func hostPort(s *corev1.PodSpec) {
	s.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}}
}

// roomFaults are about pods that fit on no node. The remedies that are not true of a case must not be offered.
var roomFaults = []fault{
	{
		name:  "pod: one more node of the same sort would help",
		plant: func(w *world) { w.make(node("n1", "4"), filler("3"), solo(asks("2"))); w.pods("filler", onNode(ready)) },
		res:   resource.Pods, of: "solo", state: plan.Waiting, never: []string{"larger", "uncordon", "label a node"},
		kind: "Pod", object: "solo", code: "Unschedulable", says: "1 Insufficient cpu", remedy: "add a node (one like n1 is enough)",
		cure: func(w *world) { w.make(node("n2", "4")); w.settle(); w.pods("solo", onNode(ready)) },
	},
	{
		name:  "pod: room on a node would help",
		plant: func(w *world) { w.make(node("n1", "4"), filler("3"), solo(asks("2"))); w.pods("filler", onNode(ready)) },
		res:   resource.Pods, of: "solo", state: plan.Waiting,
		kind: "Pod", object: "solo", code: "Unschedulable", remedy: "free resources on node n1",
		cure: func(w *world) { w.remove("filler"); w.endAll(); w.settle(); w.pods("solo", onNode(ready)) },
	},
	{
		name: "pod: a pod that ends makes room",
		plant: func(w *world) {
			w.make(node("n1", "4"), filler("3"))
			w.pods("filler", ready)
			w.remove("filler")
			w.make(solo(asks("2")))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, never: []string{"add a node", "lower the pod's requests"},
		kind: "Pod", object: "filler", code: "Terminating",
		cure: func(w *world) { w.endAll(); w.settle(); w.pods("solo", onNode(ready)) },
	},
	{
		name:  "pod: it asks for more than any node has",
		plant: func(w *world) { w.make(node("n1", "4"), node("n2", "2"), solo(asks("64"))) },
		res:   resource.Pods, of: "solo", state: plan.Waiting, never: []string{"free resources", "one like"},
		kind: "Pod", object: "solo", code: "Unschedulable", says: "the most that a node has free is 4 (n1)",
		remedy: "add a larger node: none there is has 64 cpu even when it is empty",
		cure:   func(w *world) { w.make(node("n3", "64")); w.settle(); w.pods("solo", onNode(ready)) },
	},
	{
		name:  "pod: every node is cordoned",
		plant: func(w *world) { w.make(node("n1", "4", cordoned), solo()) },
		res:   resource.Pods, of: "solo", state: plan.Waiting, never: []string{"lower the pod's requests", "label a node"},
		kind: "Pod", object: "solo", code: "Unschedulable", remedy: "kubectl uncordon n1",
		cure: func(w *world) {
			editNode(w, "n1", func(n *corev1.Node) { n.Spec.Unschedulable = false })
			w.pods("solo", onNode(ready))
		},
	},
	{
		name: "pod: the cordoned node is too small, the other is full",
		plant: func(w *world) {
			w.make(node("n1", "4"), filler("3"), node("n2", "1", cordoned), solo(asks("2")))
			w.pods("filler", onNode(ready))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, never: []string{"uncordon"},
		kind: "Pod", object: "solo", code: "Unschedulable", remedy: "free resources on node n1",
		cure: func(w *world) { w.remove("filler"); w.endAll(); w.settle(); w.pods("solo", onNode(ready)) },
	},
	{
		name:  "pod: a taint is all that keeps it off",
		plant: func(w *world) { w.make(node("n1", "4", tainted("gpu")), solo()) },
		res:   resource.Pods, of: "solo", state: plan.Waiting, never: []string{"add a node", "lower the pod's requests"},
		kind: "Pod", object: "solo", code: "Unschedulable", remedy: "kubectl taint node n1 gpu:NoSchedule-",
		cure: func(w *world) {
			editNode(w, "n1", func(n *corev1.Node) { n.Spec.Taints = nil })
			w.pods("solo", onNode(ready))
		},
	},
	{
		name:  "pod: no node has the label, one like these would not help",
		plant: func(w *world) { w.make(node("n1", "4"), solo(selecting("disk", "ssd"))) },
		res:   resource.Pods, of: "solo", state: plan.Waiting, never: []string{"add a node", "lower the pod's requests"},
		kind: "Pod", object: "solo", code: "Unschedulable", remedy: "label a node as the pod's nodeSelector or affinity asks",
		cure: func(w *world) {
			editNode(w, "n1", func(n *corev1.Node) { n.Labels["disk"] = "ssd" })
			w.pods("solo", onNode(ready))
		},
	},
	{
		name: "pod: the labelled node is cordoned and full",
		plant: func(w *world) {
			w.make(node("n1", "4", cordoned, labelled("disk", "ssd")), node("n2", "4"), solo(asks("64"), selecting("disk", "ssd")))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, never: []string{"kubectl uncordon n1"},
		kind: "Pod", object: "solo", code: "Unschedulable", remedy: "add a larger node",
		cure: func(w *world) {
			w.make(node("n3", "64", labelled("disk", "ssd")))
			w.settle()
			w.pods("solo", onNode(ready))
		},
	},
	{
		name: "pod: its host port is taken",
		plant: func(w *world) {
			first := solo(hostPort)
			first.Name = "first"
			w.make(node("n1", "4"), first, solo(hostPort))
			w.pods("first", onNode(ready))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, never: []string{"lower the pod's requests"},
		kind: "Pod", object: "solo", code: "Unschedulable", says: "free ports", remedy: "free the host port on a node",
		cure: func(w *world) { w.remove("first"); w.endAll(); w.settle(); w.pods("solo", onNode(ready)) },
	},
	{
		name: "deployment: more pods than nodes, and they keep apart",
		plant: func(w *world) {
			w.make(node("n1", "4"), deploy(2, apart))
			w.pods("web", onNode(ready))
		},
		res: resource.Deployments, of: "web", state: plan.Waiting, never: []string{"lower the pod's requests"},
		kind: "Pod", object: "web-", code: "Unschedulable", says: "anti-affinity", remedy: "add a node (one like n1 is enough)",
		cure: func(w *world) { w.make(node("n2", "4")); w.settle(); w.pods("web", onNode(ready)) },
	},
	{
		name: "pod: it would be near pods that there are none of",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(func(s *corev1.PodSpec) {
				s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
					LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cache"}}, TopologyKey: corev1.LabelHostname}}}}
			}))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, never: []string{"add a node", "lower the pod's requests"},
		kind: "Pod", object: "solo", code: "Unschedulable", remedy: "start the pods that it asks to be near",
		cure: func(w *world) {
			cache := solo()
			cache.Name, cache.Labels = "cache", map[string]string{"app": "cache"}
			w.make(cache)
			w.pods("cache", onNode(ready))
			w.settle()
			w.pods("solo", onNode(ready))
		},
	},
	{
		name:  "pod: there is no node",
		plant: func(w *world) { w.make(solo()) },
		res:   resource.Pods, of: "solo", state: plan.Waiting,
		kind: "Pod", object: "solo", code: "Unschedulable", says: "no nodes available", remedy: "add a node: there is none",
		cure: func(w *world) { w.make(node("n1", "4")); w.settle(); w.pods("solo", onNode(ready)) },
	},
	{
		name: "pod: its scheduling gates",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(func(s *corev1.PodSpec) { s.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/paid"}} }))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting,
		kind: "Pod", object: "solo", code: "SchedulingGated", says: "example.com/paid", remedy: "remove the pod's scheduling gates",
		cure: func(w *world) {
			edit(w, resource.Pods, "solo", func(o object.Object) { o.(*corev1.Pod).Spec.SchedulingGates = nil })
			w.settle()
			w.pods("solo", onNode(ready))
		},
	},
	{
		name: "stateful: the volume is on a node that is full",
		plant: func(w *world) {
			w.make(node("n1", "4"), filler("3"))
			w.pods("filler", onNode(ready))
			w.make(node("n2", "8"), volumeOn("n1"), boundClaim(), solo(asks("2"), claiming("data")))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, never: []string{"add a node", "label a node"},
		kind: "Pod", object: "solo", code: "Unschedulable", remedy: "free resources on node n1",
		cure: func(w *world) { w.remove("filler"); w.endAll(); w.settle(); w.pods("solo", onNode(ready)) },
	},
	{
		name: "daemons: the one node of a daemon is full",
		plant: func(w *world) {
			w.make(node("n1", "4"), filler("3"))
			w.pods("filler", onNode(ready))
			w.make(daemon(asks("2")))
			w.beat(20 * time.Second)
		},
		res: resource.DaemonSets, of: "agent", state: plan.Waiting, never: []string{"add a node"},
		kind: "Pod", object: "agent-", code: "Unschedulable", remedy: "free resources on node n1",
		cure: func(w *world) { w.remove("filler"); w.endAll(); w.settle(); w.pods("agent", onNode(ready)) },
	},
}

// filler is a pod that takes room.
func filler(cpu string) *corev1.Pod {
	p := solo(asks(cpu))
	p.Name = "filler"
	p.Labels = nil
	return p
}

func labelled(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

// onNode changes the pods alone that have a node.
func onNode(change func(*corev1.Pod)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Spec.NodeName != "" {
			change(p)
		}
	}
}

func volumeOn(node string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "vol"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{"storage": apires.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain, StorageClassName: "manual",
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/data"}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}},
	}}
}

func boundClaim() *corev1.PersistentVolumeClaim {
	name := "manual"
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &name, VolumeName: "vol",
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": apires.MustParse("1Gi")}},
	}}
}

func claiming(name string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
	}
}
