package place

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/view"
)

func node(name string, edits ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
			corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
	for _, edit := range edits {
		edit(n)
	}
	return n
}

func label(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func taint(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func pod(name string, edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

func requests(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}
	}
}

func priority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func onNode(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }

func hostPort(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: n, ContainerPort: n}}
	}
}

func appSelector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
}

func antiAffinity(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: appSelector()}},
		}}
	}
}

func affinity(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: appSelector()}},
		}}
	}
}

func spreadOver(key string, maxSkew int32, minDomains *int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			TopologyKey: key, MaxSkew: maxSkew, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: appSelector(), MinDomains: minDomains,
		}}
	}
}

func withEphemeral(volume string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{
			Name: volume, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}},
		})
	}
}

func runsOn(os corev1.OSName) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: os} }
}

func withClaim(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}}}
	}
}

// world fills a state and a reader.
func world(objects ...object.Object) (*State, object.Reader) {
	s, v := NewState(), view.New(Indexes()...)
	for i, o := range objects {
		o.SetResourceVersion(fmt.Sprint(i + 1))
		v.Apply(view.Event{Type: "ADDED", Object: o})
		switch o := o.(type) {
		case *corev1.Node:
			s.SetNode(o)
		case *corev1.Pod:
			s.AddPod(NewPod(o), o.Spec.NodeName)
		case *corev1.Namespace:
			s.SetNamespace(o.Name, o.Labels)
		}
	}
	return s, v
}

func TestPlace(t *testing.T) {
	two := int32(2)
	class := func(mode storagev1.VolumeBindingMode, provisioner string) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: provisioner, VolumeBindingMode: &mode}
	}
	claim := func(phase corev1.PersistentVolumeClaimPhase, volume string, annotations map[string]string) *corev1.PersistentVolumeClaim {
		fast := "fast"
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data", UID: "claim", Annotations: annotations},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: &fast, VolumeName: volume, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
			Status: corev1.PersistentVolumeClaimStatus{Phase: phase},
		}
	}
	volume := func(on string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pv"},
			Spec: corev1.PersistentVolumeSpec{
				StorageClassName: "fast", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: "In", Values: []string{on}}},
				}}}},
			},
			Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
		}
	}
	wait, immediate := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate

	for _, tc := range []struct {
		name    string
		world   []object.Object
		pod     *corev1.Pod
		want    string
		message string
	}{
		{
			name: "no node", pod: pod("p"), message: "no nodes available to schedule pods",
		}, {
			name: "the emptier node", world: []object.Object{node("a"), node("b"), pod("x", onNode("a"), requests("2", "4Gi"))},
			pod: pod("p", requests("1", "1Gi")), want: "b",
		}, {
			name: "siblings spread though one node is emptier by a little",
			world: []object.Object{
				node("a"), node("b"), pod("other", onNode("b"), requests("500m", "1Gi")),
				pod("sib", onNode("a"), func(p *corev1.Pod) { owned(p, "rs") }),
			},
			pod: pod("p", func(p *corev1.Pod) { owned(p, "rs") }), want: "b",
		}, {
			name: "causes are counted", world: []object.Object{
				node("a", taint("gpu", "yes", corev1.TaintEffectNoSchedule)),
				node("b", func(n *corev1.Node) { n.Spec.Unschedulable = true }),
				node("c", label("disk", "ssd")), node("d"),
				pod("x", onNode("c"), requests("3500m", "1Gi")),
			},
			pod: pod("p", requests("1", "1Gi"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }),
			message: "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector, " +
				"1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable.",
		}, {
			name: "operating system", world: []object.Object{node("a"), node("b", label(corev1.LabelOSStable, "windows")), node("c", label(corev1.LabelOSStable, "linux"))},
			pod: pod("p", runsOn(corev1.Windows)), want: "b",
		}, {
			name: "no node of its operating system", world: []object.Object{node("a"), node("c", label(corev1.LabelOSStable, "linux"))},
			pod: pod("p", runsOn(corev1.Windows)), message: "0/2 nodes are available: 2 node(s) didn't have the Pod's operating system.",
		}, {
			name: "Linux by name", world: []object.Object{node("a")}, pod: pod("p", runsOn(corev1.Linux)), want: "a",
		}, {
			name: "host port taken", world: []object.Object{node("a"), pod("x", onNode("a"), hostPort(80))},
			pod: pod("p", hostPort(80)), message: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
		}, {
			name: "scheduling gates", world: []object.Object{node("a")},
			pod:     pod("p", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }),
			message: "0/1 nodes are available: Scheduling is blocked due to non-empty scheduling gates.",
		}, {
			name: "anti-affinity by host", world: []object.Object{node("a"), node("b"), pod("x", onNode("a"))},
			pod: pod("p", antiAffinity(corev1.LabelHostname)), want: "b",
		}, {
			name: "existing pods repel", world: []object.Object{node("a"), pod("x", onNode("a"), antiAffinity(corev1.LabelHostname))},
			pod: pod("p"), message: "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
		}, {
			name: "affinity by zone", world: []object.Object{
				node("a", label("zone", "1")), node("b", label("zone", "2")), node("c", label("zone", "2")),
				pod("x", onNode("b"), requests("3", "6Gi")),
			}, pod: pod("p", affinity("zone")), want: "c",
		}, {
			name: "the first of an affine group goes anywhere", world: []object.Object{node("a", label("zone", "1"))},
			pod: pod("p", affinity("zone")), want: "a",
		}, {
			name: "spread by zone", world: []object.Object{
				node("a", label("zone", "1")), node("b", label("zone", "2"), func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("1") }),
				pod("x", onNode("a")),
			}, pod: pod("p", spreadOver("zone", 1, nil)), want: "b",
		}, {
			name: "spread with too few domains", world: []object.Object{node("a", label("zone", "1")), pod("x", onNode("a"))},
			pod: pod("p", spreadOver("zone", 1, &two)), message: "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints.",
		}, {
			name: "spread without the label", world: []object.Object{node("a")},
			pod: pod("p", spreadOver("zone", 1, nil)), message: "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).",
		}, {
			name: "claim not there", world: []object.Object{node("a")}, pod: pod("p", withClaim("data")),
			message: `0/1 nodes are available: persistentvolumeclaim "data" not found.`,
		}, {
			name: "ephemeral claim not made yet", world: []object.Object{node("a")}, pod: pod("p", withEphemeral("v")),
			message: `0/1 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "p-v".`,
		}, {
			name: "ephemeral claim of somebody else", pod: pod("p", withEphemeral("v")),
			world:   []object.Object{node("a"), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: pod("p").Namespace, Name: "p-v"}}},
			message: "0/1 nodes are available: PVC " + pod("p").Namespace + "/p-v was not created for pod " + pod("p").Namespace + "/p (pod is not owner).",
		}, {
			name: "immediate claim unbound", world: []object.Object{node("a"), class(immediate, "x"), claim(corev1.ClaimPending, "", nil)},
			pod: pod("p", withClaim("data")), message: "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
		}, {
			name: "bound volume ties to its node", world: []object.Object{node("a"), node("b"), class(wait, "x"), claim(corev1.ClaimBound, "pv", nil), volume("b")},
			pod: pod("p", withClaim("data")), want: "b",
		}, {
			name: "selected node holds", world: []object.Object{node("a"), node("b"), class(wait, "x"), claim(corev1.ClaimPending, "", map[string]string{AnnSelectedNode: "b"})},
			pod: pod("p", withClaim("data")), want: "b",
		}, {
			name: "an available volume where no other can be made", world: []object.Object{node("a"), node("b"), class(wait, noProvisioner), claim(corev1.ClaimPending, "", nil), volume("b")},
			pod: pod("p", withClaim("data")), want: "b",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, r := world(tc.world...)
			d := s.Place(NewPod(tc.pod), r, "")
			if d.Node != tc.want {
				t.Errorf("placed on %q, want %q (%s)", d.Node, tc.want, d.Message())
			}
			if tc.want == "" {
				if diff := cmp.Diff(tc.message, d.Message()); diff != "" {
					t.Errorf("message (-want +got):\n%s", diff)
				}
				if d.Causes == 0 && d.Nodes > 0 {
					t.Error("refused for no cause: nothing would wake the pod")
				}
			}
		})
	}
}

func owned(p *corev1.Pod, uid types.UID) {
	yes := true
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: string(uid), UID: uid, Controller: &yes}}
}

func TestPreempt(t *testing.T) {
	budget := func(allowed int32) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pdb"},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"guarded": "yes"}}},
			Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed},
		}
	}
	guarded := func(p *corev1.Pod) { p.Labels["guarded"] = "yes" }
	big := requests("3", "1Gi")
	for _, tc := range []struct {
		name    string
		world   []object.Object
		pod     *corev1.Pod
		node    string
		victims []string
	}{
		{
			name: "the less important victim", world: []object.Object{
				node("a"), node("b"), pod("x", onNode("a"), big, priority(5)), pod("y", onNode("b"), big, priority(1)),
			}, pod: pod("p", big, priority(10)), node: "b", victims: []string{"y"},
		}, {
			name: "a budget is honoured where another node will do", world: []object.Object{
				node("a"), node("b"), pod("x", onNode("a"), big, priority(1), guarded), pod("y", onNode("b"), big, priority(5)), budget(0),
			}, pod: pod("p", big, priority(10)), node: "b", victims: []string{"y"},
		}, {
			name: "no more victims than needed", world: []object.Object{
				node("a"), pod("x", onNode("a"), requests("1", "1Gi"), priority(1)), pod("y", onNode("a"), requests("2", "1Gi"), priority(2)),
			}, pod: pod("p", requests("2", "1Gi"), priority(10)), node: "a", victims: []string{"x"},
		}, {
			name:  "equals are not preempted",
			world: []object.Object{node("a"), pod("x", onNode("a"), big, priority(10))}, pod: pod("p", big, priority(10)),
		}, {
			name:  "an anti-affine victim",
			world: []object.Object{node("a"), pod("x", onNode("a"), antiAffinity(corev1.LabelHostname), priority(1))}, pod: pod("p", priority(10)),
			node: "a", victims: []string{"x"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, r := world(tc.world...)
			got := s.Preempt(NewPod(tc.pod), r)
			if got == nil {
				if tc.node != "" {
					t.Fatal("no preemption found")
				}
				return
			}
			var victims []string
			for _, v := range got.Victims {
				victims = append(victims, v.Object.Name)
			}
			if got.Node != tc.node || !cmp.Equal(victims, tc.victims) {
				t.Errorf("got %s %v, want %s %v", got.Node, victims, tc.node, tc.victims)
			}
			for uid, p := range s.homes {
				if p.node == nil || s.nodes[p.node.Name] != p.node || p.node.pods[p.slot] != p {
					t.Errorf("pod %s is lost from the state", uid)
				}
			}
		})
	}
}

// What a class remembers must be what a fresh snapshot would say, whatever happened in between.
func TestClassesAgreeWithFreshState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, r := world()
		nodes := map[string]*corev1.Node{}
		pods := map[string]*corev1.Pod{}
		cpus := []string{"0", "500m", "1", "3"}
		draw := func(name string) *corev1.Pod {
			p := pod(name, requests(rapid.SampledFrom(cpus).Draw(rt, "cpu"), "1Gi"))
			switch rapid.IntRange(0, 5).Draw(rt, "kind") {
			case 0:
				antiAffinity(corev1.LabelHostname)(p)
			case 1:
				spreadOver("zone", 1, nil)(p)
			case 2:
				hostPort(80)(p)
			}
			return p
		}
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			name := fmt.Sprint("n", rapid.IntRange(0, 4).Draw(rt, "node"))
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0:
				n := node(name, label("zone", fmt.Sprint(rapid.IntRange(0, 1).Draw(rt, "zone"))))
				n.Spec.Unschedulable = rapid.Bool().Draw(rt, "cordoned")
				nodes[name] = n
				s.SetNode(n)
			case 1:
				delete(nodes, name)
				s.RemoveNode(name)
			case 2:
				for victim := range pods {
					delete(pods, victim)
					s.RemovePod(types.UID(victim))
					break
				}
			default:
				p := draw(fmt.Sprint("p", i))
				fresh, _ := world()
				for _, n := range nodes {
					fresh.SetNode(n)
				}
				for _, q := range pods {
					fresh.AddPod(NewPod(q), q.Spec.NodeName)
				}
				got, want := s.Place(NewPod(p), r, ""), fresh.Place(NewPod(p), r, "")
				if diff := cmp.Diff(want, got); diff != "" {
					rt.Fatalf("remembered and fresh decisions differ (-fresh +remembered):\n%s", diff)
				}
				if got.Node != "" {
					p.Spec.NodeName = got.Node
					pods[p.Name] = p
					s.AddPod(NewPod(p), got.Node)
				}
			}
		}
	})
}
