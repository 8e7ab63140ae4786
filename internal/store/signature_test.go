package store

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"
)

// TestSignaturesHideNothing: what a selector selects has all bits that it requires, decoded or not.
func TestSignaturesHideNothing(t *testing.T) {
	words := rapid.SampledFrom([]string{"a", "b", "app", "tier", "x"})
	terms := rapid.SampledFrom([]string{"%s=%s", "%s==%s", "%s!=%s", "%s in (%s)", "%s in (%s,b)", "%s notin (%s)", "%s", "!%s", "%s="})
	hidden, shown := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		have := rapid.MapOfN(words, rapid.OneOf(words, rapid.Just("")), 0, 5).Draw(t, "labels")
		var text string
		for i := range rapid.IntRange(0, 3).Draw(t, "terms") {
			if i > 0 {
				text += ","
			}
			term := terms.Draw(t, "term")
			args := []any{words.Draw(t, "key"), words.Draw(t, "value")}
			switch term {
			case "%s", "!%s", "%s=":
				args = args[:1]
			}
			text += fmt.Sprintf(term, args...)
		}
		sel, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: have}}
		pending := &undecoded{obj: pod, labels: signatureOf(pod)}
		for _, done := range []bool{false, true} {
			pending.done.Store(done)
			for _, v := range []*version{{labels: signatureOf(pod)}, {pending: pending}} {
				if sel.Matches(labels.Set(have)) && !v.mayHave(required(sel)) {
					t.Fatalf("%q selects %v, which its signature hides", text, have)
				}
				if !v.mayHave(required(sel)) {
					hidden++
				}
				shown++
			}
		}
	})
	if hidden == 0 || shown == 0 {
		t.Errorf("%d of %d are hidden", hidden, shown)
	}
}
