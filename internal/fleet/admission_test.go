package fleet_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/loop/looptest"
	"coracle/internal/resource"
)

// put makes a pod bound to node n, with changes.
func (w *world) put(name string, changes ...func(*corev1.Pod)) {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name},
		Spec:       corev1.PodSpec{NodeName: "n", RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, change := range changes {
		change(p)
	}
	looptest.Make(w.Cluster, p)
}

func cpus(amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse(amount)}
	}
}

func hostPort(p *corev1.Pod) {
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
}

func claims(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
	}
}

// TestSimulatedNodesRefuse: they judge pods as real nodes do, and take what has become free.
func TestSimulatedNodesRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "100.64.0.0/24") // 32 CPUs
		looptest.Rest()
		label := func(value string) {
			looptest.Edit(w.Cluster, resource.Nodes, "", "n", func(n *corev1.Node) { n.Labels["disk"] = value })
		}
		ssd := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }
		label("ssd")
		w.put("most", cpus("20"), hostPort, ssd)
		looptest.Rest()
		w.put("much", cpus("20"))
		w.put("port", hostPort)
		w.put("elsewhere", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"no": "such"} })
		w.put("windows", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} })
		looptest.Rest()
		w.want("most", "Running Ready")
		for name, reason := range map[string]string{"much": "OutOfcpu", "port": "NodePorts", "elsewhere": "NodeAffinity", "windows": "PodOSNotSupported"} {
			st := w.find(name).Status
			if st.Phase != corev1.PodFailed || st.Reason != reason || !strings.HasPrefix(st.Message, "Pod was rejected: ") || len(st.ContainerStatuses) != 0 || st.PodIP != "" {
				t.Errorf("%s: %+v", name, st)
			}
			if told := w.events(reason); len(told) != 1 || !strings.HasPrefix(told[0], "d/"+name) {
				t.Errorf("%s: told %q", name, told)
			}
		}
		// A new server finds what runs as it was, though the node would not take it today.
		w.stop()
		label("tape")
		looptest.Rest()
		w.put("too-late", ssd)
		w.put("again", cpus("20"))
		w.start()
		looptest.Rest()
		w.want("most", "Running Ready")
		w.want("too-late", "Failed")
		w.want("again", "Failed")
		w.delete("most", 0)
		looptest.Rest()
		w.put("next", cpus("20"), hostPort)
		looptest.Rest()
		w.want("next", "Running Ready")
	})
}

// TestRacersAreJudgedOneAfterTheOther: of many pods that come at once exactly as many are taken as there is room for.
func TestRacersAreJudgedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "100.64.0.0/24")
		looptest.Rest()
		for i := range 60 {
			w.put(fmt.Sprint("p", i), cpus("1"))
		}
		looptest.Rest()
		count := map[string]int{}
		for _, p := range w.pods() {
			count[shows(p)]++
		}
		if count["Running Ready"] != 32 || count["Failed"] != 28 {
			t.Errorf("%v", count)
		}
	})
}

// TestSimulatedPodsWaitForTheirClaims: as on a real node, also when the pod names its node.
func TestSimulatedPodsWaitForTheirClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "100.64.0.0/24")
		looptest.Rest()
		w.put("p", claims("data"))
		w.put("ephemeral", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		})
		w.put("gone", claims("data"))
		looptest.Rest()
		if st := w.find("p").Status; st.Phase != corev1.PodPending || st.ContainerStatuses[0].State.Waiting.Reason != "ContainerCreating" {
			t.Errorf("%+v", st)
		}
		if told := w.events("FailedMount"); len(told) != 3 || !strings.Contains(strings.Join(told, "\n"),
			`d/p FailedMount: error processing PVC d/data: failed to fetch PVC from API server: persistentvolumeclaims "data" not found`) {
			t.Errorf("%q", told)
		}
		w.delete("gone", 0)
		for _, name := range []string{"data", "ephemeral-scratch"} {
			looptest.Make(w.Cluster, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}})
		}
		looptest.Rest()
		w.want("p", "Pending")
		w.want("ephemeral", "Pending")
		for _, name := range []string{"data", "ephemeral-scratch"} {
			looptest.Edit(w.Cluster, resource.PersistentVolumeClaims, "d", name, func(c *corev1.PersistentVolumeClaim) {
				c.Spec.VolumeName, c.Status.Phase = "pv", corev1.ClaimBound
			})
		}
		looptest.Rest()
		w.want("p", "Running Ready")
		w.want("ephemeral", "Running Ready")
	})
}
