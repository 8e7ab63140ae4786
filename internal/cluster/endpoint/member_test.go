package endpoint

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// TestEndpointKnown: whether an endpoint says what it should is found without writing it down, and no otherwise than by
// comparing it with what would be written.
func TestEndpointKnown(t *testing.T) {
	word := rapid.SampledFrom([]string{"", "a", "b"})
	draw := func(t *rapid.T, from member) member {
		m := from
		change := func(f func()) {
			if from.pod == nil || rapid.IntRange(0, 9).Draw(t, "changes") == 0 {
				f()
			}
		}
		pod := corev1.Pod{}
		if from.pod != nil {
			pod = *from.pod
		}
		m.pod = &pod
		change(func() {
			pod.ObjectMeta = metav1.ObjectMeta{Namespace: word.Draw(t, "namespace"), Name: word.Draw(t, "name")}
		})
		change(func() { pod.UID = types.UID(word.Draw(t, "uid")) })
		change(func() { pod.Spec.NodeName = word.Draw(t, "node") })
		change(func() { m.address = word.Draw(t, "address") })
		change(func() { m.ready = rapid.Bool().Draw(t, "ready") })
		change(func() { m.serving = rapid.Bool().Draw(t, "serving") })
		change(func() { m.terminating = rapid.Bool().Draw(t, "terminating") })
		change(func() { m.hostname = word.Draw(t, "hostname") })
		change(func() { m.zone = word.Draw(t, "zone") })
		change(func() { m.forNode = word.Draw(t, "for node") })
		change(func() { m.forZone = word.Draw(t, "for zone") })
		return m
	}
	rapid.Check(t, func(t *rapid.T) {
		a := draw(t, member{})
		b := draw(t, a)
		e := b.endpoint()
		if rapid.IntRange(0, 9).Draw(t, "odd") == 0 { // as others might write it
			rapid.SampledFrom([]func(){
				func() { e.TargetRef = nil }, func() { e.Conditions.Ready = nil }, func() { e.Hostname = new(string) },
				func() { e.Addresses = append(e.Addresses, "c") }, func() { e.DeprecatedTopology = map[string]string{"a": "b"} },
				func() {
					e.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: "a"}, {Name: "b"}}}
				},
				func() { e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}} },
				func() { e.TargetRef.FieldPath = "spec" },
			}).Draw(t, "how")()
		}
		if want := apiequality.Semantic.DeepEqual(e, a.endpoint()); a.is(&e) != want {
			t.Fatalf("%+v is the endpoint of %+v: %t, want %t", e, a, !want, want)
		}
	})
}
