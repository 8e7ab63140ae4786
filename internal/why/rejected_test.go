package why_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// refusedPod is a pod that node n1 refused for a reason.
func refusedPod(reason string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason, Message: "Pod was rejected: as the node says"},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func cpus(amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": apires.MustParse(amount)}
	}
}

func port(p *corev1.Pod) { p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}} }

// TestRefusedByTheNode: the reason is the node's, and the remedy is one that would help now.
func TestRefusedByTheNode(t *testing.T) {
	owned := func(p *corev1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "x", Controller: &yes}}
	}
	runs := func(name string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := refusedPod("", change...)
		p.Name, p.Status = name, corev1.PodStatus{Phase: corev1.PodRunning}
		return p
	}
	expelling := tainted("gpu")
	for _, tc := range []struct {
		name   string
		world  []object.Object
		pod    *corev1.Pod
		says   string
		hint   string
		unsaid string
	}{
		{"a port", []object.Object{node("n1", "4"), runs("web", port)}, refusedPod("NodePorts", port), "node n1 refused pod p: as the node says",
			"end pod default/web, which has the port", "would take it now"},
		{"a port that is free again", []object.Object{node("n1", "4")}, refusedPod("NodePorts", port), "the node would take it now",
			"delete pod p and create it again", "hostPort"},
		{"room that others have", []object.Object{node("n1", "4"), runs("web", cpus("3"))}, refusedPod("OutOfcpu", cpus("2")), "refused",
			"end pods on node n1, lower the requests", "larger node"},
		{"more than the node is", []object.Object{node("n1", "4"), runs("web", cpus("3"))}, refusedPod("OutOfcpu", cpus("64")), "refused",
			"lower the pod's requests, or let it go to a larger node: n1 has 4 cpu in all", "end pods"},
		{"a label", []object.Object{node("n1", "4")}, refusedPod("NodeAffinity", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }), "refused",
			"label node n1", ""},
		{"a taint", []object.Object{node("n1", "4", expelling, func(n *corev1.Node) { n.Spec.Taints[0].Effect = corev1.TaintEffectNoExecute })},
			refusedPod("TaintToleration"), "refused", "add a toleration", ""},
		{"another system", []object.Object{node("n1", "4")}, refusedPod("PodOSNotSupported", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: "windows"} }), "refused",
			"n1 runs linux", ""},
		{"another reason by now", []object.Object{node("n1", "4"), runs("web", port)}, refusedPod("NodeAffinity", port), "now it would be refused for another reason",
			"end pod default/web", "label node"},
		{"a controller makes another", []object.Object{node("n1", "4")}, refusedPod("OutOfcpu", cpus("64"), owned), "refused", "its controller makes another pod", "delete pod p"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.make(tc.world...)
				w.make(tc.pod)
				r, text := w.why(resource.Pods, "p")
				if r.Object.State != plan.Stuck || len(r.Causes) != 1 || r.Causes[0].Reason != tc.pod.Status.Reason ||
					!strings.Contains(r.Causes[0].Message, tc.says) || !strings.Contains(r.Causes[0].Hint, tc.hint) ||
					tc.unsaid != "" && strings.Contains(text, tc.unsaid) {
					t.Errorf("%s", text)
				}
			})
		})
	}
}

// TestPodThatNamesItsNodeWaitsForItsClaim: it is no pod that starts.
func TestPodThatNamesItsNodeWaitsForItsClaim(t *testing.T) {
	inWorld(t, func(w *world) {
		w.make(node("n1", "4"))
		p := refusedPod("", func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
				{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}}
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		})
		w.make(p)
		if r, text := w.why(resource.Pods, "p"); len(r.Causes) != 1 || r.Causes[0].Reason != "NotFound" || !strings.Contains(text, "PersistentVolumeClaim data  does not exist") {
			t.Errorf("%s", text)
		}
	})
}
