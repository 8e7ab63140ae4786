package admit

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// TestRuntimeClass: what a class says of its pods is theirs, and a pod of a class that is not there is refused.
func TestRuntimeClass(t *testing.T) {
	amount := func(n string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceMemory: quantity.MustParse(n)}
	}
	tolerated := corev1.Toleration{Key: "boxed", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
	boxed := &nodev1.RuntimeClass{ObjectMeta: named("boxed"), Handler: "box", Overhead: &nodev1.Overhead{PodFixed: amount("64Mi")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"boxes": "yes"}, Tolerations: []corev1.Toleration{tolerated}}}
	w := defaultWorld(boxed, &nodev1.RuntimeClass{ObjectMeta: named("plain"), Handler: "runc"})
	for _, x := range []struct {
		name     string
		class    *string
		given    corev1.ResourceList
		selector map[string]string
		wants    map[string]string
		err      string
	}{
		{name: "no class"},
		{name: "overhead without a class", given: amount("1Mi"), err: "Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{name: "absent", class: ptr.To("none"), err: `pods "p" is forbidden: pod rejected: RuntimeClass "none" not found`},
		{name: "plain", class: ptr.To("plain")},
		{name: "plain with overhead", class: ptr.To("plain"), given: amount("1Mi"), err: "Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{name: "boxed", class: ptr.To("boxed"), wants: map[string]string{"boxes": "yes"}},
		{name: "same overhead", class: ptr.To("boxed"), given: amount("65536Ki"), wants: map[string]string{"boxes": "yes"}},
		{name: "other overhead", class: ptr.To("boxed"), given: amount("1Mi"), err: "Pod's Overhead doesn't match RuntimeClass's defined Overhead"},
		{name: "merged", class: ptr.To("boxed"), selector: map[string]string{"boxes": "yes", "a": "b"}, wants: map[string]string{"boxes": "yes", "a": "b"}},
		{name: "conflict", class: ptr.To("boxed"), selector: map[string]string{"boxes": "no"},
			err: "conflict: runtimeClass.scheduling.nodeSelector[boxes] = yes; pod.spec.nodeSelector[boxes] = no"},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := pod()
			p.Spec.RuntimeClassName, p.Spec.Overhead, p.Spec.NodeSelector = x.class, x.given, x.selector
			err := write(w, p, nil)
			wantError(t, err, x.err)
			if err != nil {
				return
			}
			if diff := cmp.Diff(x.wants, p.Spec.NodeSelector); diff != "" {
				t.Errorf("node selector (-want +got):\n%s", diff)
			}
			isBoxed := x.class != nil && *x.class == "boxed"
			if memory := p.Spec.Overhead.Memory(); isBoxed != (memory.Value() == 64<<20) {
				t.Errorf("overhead %v", p.Spec.Overhead)
			}
			if tolerates := len(p.Spec.Tolerations) == 3; tolerates != isBoxed {
				t.Errorf("tolerations %v", p.Spec.Tolerations)
			}
		})
	}
	if len(boxed.Scheduling.NodeSelector) != 1 {
		t.Error("the class was changed")
	}
	update := pod()
	update.Spec.RuntimeClassName = ptr.To("none")
	wantError(t, write(w, update, update), "")
}
