package placement_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"pgregory.net/rapid"

	"coracle/internal/workload/placement"
)

func taint(key, value string, effect corev1.TaintEffect) corev1.Taint {
	return corev1.Taint{Key: key, Value: value, Effect: effect}
}

func TestAsk(t *testing.T) {
	inZone := func(zones ...string) *corev1.Affinity {
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: zones}}}}}}}
	}
	broken := inZone()
	node := func(taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"zone": "a"}}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	no, never, prefer := corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute, corev1.TaintEffectPreferNoSchedule
	for _, tc := range []struct {
		name  string
		spec  corev1.PodSpec
		node  *corev1.Node
		cause placement.Cause
		stays bool
		by    string
	}{
		{"anywhere", corev1.PodSpec{}, node(), placement.Fits, true, ""},
		{"named", corev1.PodSpec{NodeName: "n"}, node(), placement.Fits, true, ""},
		{"named otherwise", corev1.PodSpec{NodeName: "m"}, node(), placement.NodeName, false, ""},
		{"selector", corev1.PodSpec{NodeSelector: map[string]string{"zone": "a"}}, node(), placement.Fits, true, ""},
		{"selector mismatch", corev1.PodSpec{NodeSelector: map[string]string{"zone": "b"}}, node(), placement.Selector, false, ""},
		{"affinity", corev1.PodSpec{Affinity: inZone("b", "a")}, node(), placement.Fits, true, ""},
		{"affinity mismatch", corev1.PodSpec{Affinity: inZone("b")}, node(), placement.Selector, false, ""},
		{"broken affinity matches nothing", corev1.PodSpec{Affinity: broken}, node(), placement.Selector, false, ""},
		{"NoSchedule", corev1.PodSpec{}, node(taint("k", "v", no)), placement.Taint, true, "k=v:NoSchedule"},
		{"NoExecute", corev1.PodSpec{}, node(taint("k", "", never)), placement.Taint, false, "k:NoExecute"},
		{"both", corev1.PodSpec{}, node(taint("k", "", no), taint("l", "", never)), placement.Taint, false, "k:NoSchedule"},
		{"PreferNoSchedule", corev1.PodSpec{}, node(taint("k", "v", prefer)), placement.Fits, true, ""},
		{"tolerated", corev1.PodSpec{Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}}, node(taint("k", "v", never)), placement.Fits, true, ""},
		{"tolerated for another effect", corev1.PodSpec{Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: no}}},
			node(taint("k", "v", never)), placement.Taint, false, "k=v:NoExecute"},
	} {
		v := placement.Compile(&tc.spec).Ask(tc.node)
		if v.Cause != tc.cause || v.Stays != tc.stays || placement.TaintText(v.Taint) != tc.by {
			t.Errorf("%s: %v stays %t by %q", tc.name, v.Cause, v.Stays, placement.TaintText(v.Taint))
		}
	}
	more := placement.Compile(&corev1.PodSpec{}, corev1.Toleration{Key: "k", Operator: corev1.TolerationOpExists})
	if v := more.Ask(node(taint("k", "v", never))); v.Cause != placement.Fits {
		t.Errorf("added tolerations do not count: %v", v.Cause)
	}
}

// TestToleratesAgreesWithTheAPI compares with the API's own method.
func TestToleratesAgreesWithTheAPI(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"", "k", "l"})
		value := rapid.SampledFrom([]string{"", "1", "2", "10", "x"})
		effect := rapid.SampledFrom([]corev1.TaintEffect{"", corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute})
		op := rapid.SampledFrom([]corev1.TolerationOperator{"", corev1.TolerationOpExists, corev1.TolerationOpEqual, corev1.TolerationOpLt, corev1.TolerationOpGt, "other"})
		toleration := corev1.Toleration{Key: word.Draw(t, "key"), Operator: op.Draw(t, "op"), Value: value.Draw(t, "value"), Effect: effect.Draw(t, "effect")}
		mark := corev1.Taint{Key: word.Draw(t, "taint key"), Value: value.Draw(t, "taint value"), Effect: effect.Draw(t, "taint effect")}
		want := toleration.ToleratesTaint(klog.Background(), &mark, true)
		if got := placement.Tolerates([]corev1.Toleration{toleration}, &mark); got != want {
			t.Fatalf("%+v of %+v: %t, the API says %t", toleration, mark, got, want)
		}
	})
}

func TestPinned(t *testing.T) {
	pin := func(key string, values ...string) *corev1.PodSpec {
		return &corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}}}}}}}
	}
	// Terms are alternatives: what one of them allows counts.
	either := func(specs ...*corev1.PodSpec) *corev1.PodSpec {
		out := specs[0].DeepCopy()
		required := out.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		for _, s := range specs[1:] {
			required.NodeSelectorTerms = append(required.NodeSelectorTerms, s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms...)
		}
		return out
	}
	n1, n2 := pin("metadata.name", "n1"), pin("metadata.name", "n2")
	for _, tc := range []struct {
		spec *corev1.PodSpec
		want string
	}{{either(n1, n1), "n1"}, {either(n1, n2), ""}, {either(n1, pin("metadata.other", "n1")), ""}, {&corev1.PodSpec{}, ""}, {pin("metadata.name", "n1"), "n1"}, {pin("metadata.name", "n1", "n2"), ""}, {pin("metadata.other", "n1"), ""}} {
		if got := placement.Pinned(tc.spec); got != tc.want {
			t.Errorf("%+v: pinned to %q, not %q", tc.spec.Affinity, got, tc.want)
		}
	}
}
