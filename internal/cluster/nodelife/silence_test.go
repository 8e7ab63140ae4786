package nodelife

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
)

// TestSilence lets a node beat and die under a server that is stopped, suspended, and has its clock set: while it beats,
// nobody calls it silent; when it no longer does, it is called so once the server has listened for its grace, and not
// much later.
func TestSilence(t *testing.T) {
	const step = 5 * time.Second
	rapid.Check(t, func(t *rapid.T) {
		ctl := lifecycle()
		w := model.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), ctl)
		w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}})
		skew := time.Duration(rapid.Int64Range(-int64(1e5*time.Second), int64(1e5*time.Second)).Draw(t, "the node's clock is off by"))
		beats := 0
		beat := func() {
			beats++
			at := metav1.NewMicroTime(w.Now.Add(skew).Add(time.Duration(beats)))
			w.Put(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: LeaseNamespace, Name: "n"}, Spec: coordinationv1.LeaseSpec{RenewTime: &at}})
		}
		beat()
		alive := true
		var listened, unbeaten time.Duration // since the last beat, or the server's return; since the last beat while it beats
		pass := func(d time.Duration) {
			for ; d > 0; d -= step {
				w.Now = w.Now.Add(step)
				listened += step
				if unbeaten += step; alive && unbeaten >= 10*time.Second {
					beat()
					listened, unbeaten = 0, 0
				}
				o, _ := w.Get(resource.Nodes, "", "n")
				p := ctl.Plan(plan.Input{Reader: w, Key: object.Key{Name: "n"}, Now: w.Now, Witness: w.Witness()})
				if silent := p.Status != nil; silent != (listened >= Grace) && isReady(o.(*corev1.Node)) {
					t.Fatalf("alive %v, listened to for %s: found silent: %v", alive, listened, silent)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"pass":   func(t *rapid.T) { pass(time.Duration(rapid.IntRange(1, 20).Draw(t, "steps")) * step) },
			"die":    func(*rapid.T) { alive = false },
			"revive": func(*rapid.T) { alive = true },
			"stop": func(t *rapid.T) {
				w.Stop(time.Duration(rapid.IntRange(16, 10000).Draw(t, "s")) * time.Second)
				listened = 0
			},
			"suspend": func(t *rapid.T) {
				w.Set(time.Duration(rapid.IntRange(16, 100000).Draw(t, "s")) * time.Second)
				listened = 0
			},
			"set": func(t *rapid.T) {
				w.Set(time.Duration(rapid.IntRange(-100000, 100000).Draw(t, "s")) * time.Second)
				listened = 0
			},
		})
	})
}
