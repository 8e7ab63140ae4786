package place

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pods of one template share what is worked out, and a difference that matters parts them.
func TestSharesWhatIsAlike(t *testing.T) {
	two, honor := int32(2), corev1.NodeInclusionPolicyHonor
	full := func(name string) *corev1.Pod {
		p := pod(name, requests("1", "1Gi"), hostPort(80), priority(5), antiAffinity(corev1.LabelHostname), spreadOver("zone", 1, &two))
		owned(p, "rs")
		p.Spec.NodeSelector = map[string]string{"disk": "ssd", "cpu": "fast"}
		p.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
		p.Spec.TopologySpreadConstraints[0].MatchLabelKeys = []string{"rev"}
		return p
	}
	s := NewState()
	first := s.NewPod(full("a"))
	if other := s.NewPod(full("b")); other.shape != first.shape || other.Alike() != first.Alike() {
		t.Error("two pods of one template share nothing")
	}
	for name, edit := range map[string]func(*corev1.Pod){
		"labels":     func(p *corev1.Pod) { p.Labels["name"] = "c" },
		"revision":   func(p *corev1.Pod) { p.Labels["rev"] = "2" },
		"namespace":  func(p *corev1.Pod) { p.Namespace = "other" },
		"owner":      func(p *corev1.Pod) { owned(p, "other") },
		"requests":   requests("2", "1Gi"),
		"port":       hostPort(81),
		"priority":   priority(6),
		"preemption": func(p *corev1.Pod) { never := corev1.PreemptNever; p.Spec.PreemptionPolicy = &never },
		"selector":   func(p *corev1.Pod) { p.Spec.NodeSelector["disk"] = "hdd" },
		"toleration": func(p *corev1.Pod) { p.Spec.Tolerations[0].Key = "tpu" },
		"image":      func(p *corev1.Pod) { p.Spec.Containers[0].Image = "web:2" },
		"key":        antiAffinity("zone"),
		"skew":       func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints[0].MaxSkew = 2 },
		"domains":    func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints[0].MinDomains = nil },
		"policy":     func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints[0].NodeTaintsPolicy = &honor },
		"softness":   func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints[0].WhenUnsatisfiable = corev1.ScheduleAnyway },
	} {
		p := full("c")
		edit(p)
		if s.NewPod(p).shape == first.shape {
			t.Errorf("a pod of another %s is taken for one of the same template", name)
		}
		if name == "labels" && s.NewPod(p).template != first.template {
			t.Error("labels that no term asks for part a pod from its template")
		}
	}
	gated := full("d")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
	claiming := full("e")
	withClaim("data")(claiming)
	for _, p := range []*corev1.Pod{gated, claiming} {
		if s.NewPod(p).Alike() == first.Alike() {
			t.Errorf("%s has gates or claims of its own, and yet shares others' fate", p.Name)
		}
	}
}

// What is remembered of sorts of pods stays bounded, and pods keep what they have.
func TestShapesAreForgotten(t *testing.T) {
	s := NewState()
	for i := range 3 * maxShapes {
		p := pod("p", func(p *corev1.Pod) { p.Labels["i"] = string(rune(i + 1000)); owned(p, types.UID(rune(i+1000))) })
		s.NewPod(p)
	}
	if n := len(s.shapes.shapes) + len(s.shapes.oldShapes); n > 2*maxShapes {
		t.Errorf("%d kin are remembered, at most %d should be", n, 2*maxShapes)
	}
	if n := len(s.shapes.templates) + len(s.shapes.oldTemplates); n > 2*maxShapes {
		t.Errorf("%d templates are remembered, at most %d should be", n, 2*maxShapes)
	}
}
