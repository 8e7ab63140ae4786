package replicaset_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"coracle/internal/drain"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
	"coracle/internal/workload/replicaset"
)

// plansOf makes a plan about each primary of a controller.
func plansOf(r object.Reader, c plan.Controller, now time.Time) map[string]plan.Plan {
	plans := map[string]plan.Plan{}
	for _, o := range r.List(c.For, "") {
		plans[object.KeyOf(o).String()] = c.Plan(plan.Input{Reader: r, Key: object.KeyOf(o), Now: now})
	}
	return plans
}

// TestKeptCountsPlanAlike: after any changes to pods, services and sets, a plan made on what the view keeps is the one
// made by looking at each pod.
func TestKeptCountsPlanAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, controllers := drawWorld(t)
		v := view.New()
		for _, c := range controllers {
			v.AddIndexes(c.Indexes...)
			v.AddSummaries(c.Summaries...)
		}
		var owners []object.Object
		for _, res := range []resource.Resource{resource.ReplicaSets, resource.ReplicationControllers, resource.Pods} {
			if res != resource.Pods {
				owners = append(owners, w.List(res, "")...)
			}
			v.Replace(res, w.List(res, ""), 1)
		}
		if rapid.Bool().Draw(t, "served") {
			v.Apply(view.Event{Type: watch.Added, Revision: 2, Object: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
				Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "a"}}}})
		}
		for i := range rapid.IntRange(1, 20).Draw(t, "changes") {
			kind := rapid.SampledFrom([]watch.EventType{watch.Added, watch.Modified, watch.Deleted}).Draw(t, "event")
			pod := drawPod(t, fmt.Sprintf("pod-%d", rapid.IntRange(0, 14).Draw(t, "pod")), owners)
			pod.Namespace = "default"
			if own := rapid.SampledFrom([]string{"", "", "x", "y"}).Draw(t, "own"); own != "" {
				pod.Labels["own"] = own
			}
			if text := rapid.SampledFrom([]string{"", "", "9s", "0s"}).Draw(t, "timeout"); text != "" {
				pod.Annotations = map[string]string{drain.Timeout: text}
			}
			if rapid.IntRange(0, 3).Draw(t, "refused") == 0 {
				pod.Status.Reason = "OutOfcpu"
			}
			v.Apply(view.Event{Type: kind, Object: pod, Revision: uint64(2 + i)})
			now := w.Now.Add(time.Duration(i) * time.Second)
			for _, c := range controllers {
				v.Read(func(r object.Reader) {
					kept, counted := plansOf(r, c, now), plansOf(struct{ object.Reader }{r}, c, now)
					if !reflect.DeepEqual(counted, kept) {
						t.Fatalf("-counted +kept:\n%s", cmp.Diff(counted, kept))
					}
				})
			}
		}
	})
}

// BenchmarkOnePodOf changes the readiness of one pod of a set and plans, on the loop's own snapshot.
func BenchmarkOnePodOf(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w, key := sized(n, n)
			c := replicaset.Controller()
			v := view.New(c.Indexes...)
			v.AddSummaries(c.Summaries...)
			v.Replace(resource.ReplicaSets, w.List(resource.ReplicaSets, ""), 1)
			v.Replace(resource.Pods, w.List(resource.Pods, ""), 1)
			states := map[bool][]object.Object{true: w.List(resource.Pods, "")}
			for _, o := range states[true] {
				down := o.(*corev1.Pod).DeepCopy()
				down.Status.Conditions[1].Status = corev1.ConditionFalse
				states[false] = append(states[false], down)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				v.Apply(view.Event{Type: watch.Modified, Object: states[i%2 == 1][i/2*7919%n], Revision: uint64(2 + i)})
				v.Read(func(r object.Reader) { c.Plan(plan.Input{Reader: r, Key: key, Now: w.Now}) })
				i++
			}
		})
	}
}
