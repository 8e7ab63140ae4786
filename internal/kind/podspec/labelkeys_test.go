package podspec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A spread over the pods of one revision names the revision in its selector once the pod is made,
// and the merged selector is still valid when the pod is updated (KEP-3243).
func TestSpreadLabelKeysAreMerged(t *testing.T) {
	spread := func(s metav1.LabelSelector) *corev1.TopologySpreadConstraint {
		return &corev1.TopologySpreadConstraint{
			MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &s, MatchLabelKeys: []string{"pod-template-hash", "absent"},
		}
	}
	spec := corev1.PodSpec{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{
		*spread(metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}),
	}}
	MergeLabelKeys(&spec, map[string]string{"app": "web", "pod-template-hash": "abc"})
	got := &spec.TopologySpreadConstraints[0]
	if diff := cmp.Diff("app=web,pod-template-hash in (abc)", metav1.FormatLabelSelector(got.LabelSelector)); diff != "" {
		t.Errorf("selector (-want +got):\n%s", diff)
	}
	for _, tc := range []struct {
		name  string
		rule  *corev1.TopologySpreadConstraint
		wrong int
	}{
		{"merged", got, 0},
		{"a label and a key", spread(metav1.LabelSelector{MatchLabels: map[string]string{"pod-template-hash": "abc"}}), 1},
		{"an expression of another sort and a key", spread(metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "pod-template-hash", Operator: "Exists"}}}), 1},
	} {
		var c checker
		c.spreadKeys(tc.rule, field.NewPath("matchLabelKeys"))
		if len(c.errs) != tc.wrong {
			t.Errorf("%s: %v, want %d errors", tc.name, c.errs, tc.wrong)
		}
	}
}
