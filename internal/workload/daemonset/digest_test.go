package daemonset_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/plan"
	kinds "coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/view"
	"coracle/internal/workload/daemonset"
	"coracle/internal/workload/progress"
)

// mirror is a snapshot as the loop keeps it, of the kinds that the planner looks at.
func mirror() *view.View {
	c := daemonset.Controller()
	v := view.New(c.Indexes...)
	v.AddSummaries(c.Summaries...)
	v.AddDigests(c.Digests...)
	return v
}

var mirrored = []kinds.Resource{kinds.Nodes, kinds.Pods, kinds.DaemonSets, kinds.ControllerRevisions, kinds.Services, kinds.Namespaces}

// TestKeptPlansAlike: whatever happens, a plan made by looking at the nodes that the view's account names is the one
// made by looking at all of them.
func TestKeptPlansAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, v := newMachine(t), mirror()
		if rapid.Bool().Draw(t, "served") {
			m.w.Put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "d"}}})
		}
		if rapid.Bool().Draw(t, "deadline") {
			m.edit(func(s *appsv1.DaemonSet) { s.Annotations = map[string]string{progress.Annotation: "20"} })
		}
		revision := uint64(0)
		actions := m.actions()
		actions["orphan"] = func(t *rapid.T) {
			model.Edit(m.w, ns, draw(m, t, live).Name, func(p *corev1.Pod) { p.OwnerReferences = nil })
		}
		actions["backdate"] = func(t *rapid.T) {
			model.Edit(m.w, ns, draw(m, t, live).Name, func(p *corev1.Pod) {
				for i := range p.Status.Conditions {
					at := rapid.SampledFrom([]int{-9, 0, 3}).Draw(t, "at")
					p.Status.Conditions[i].LastTransitionTime = metav1.Time{Time: m.w.Now.Add(time.Duration(at) * time.Second)}
				}
			})
		}
		actions[""] = func(t *rapid.T) {
			for _, res := range mirrored {
				revision++
				v.Replace(res, m.w.List(res, ""), revision)
			}
			v.Read(func(r object.Reader) {
				in := plan.Input{Reader: r, Key: key, Now: m.w.Now, Last: m.last}
				kept := daemonset.Plan(in)
				in.Reader = struct{ object.Reader }{r}
				if counted := daemonset.Plan(in); !reflect.DeepEqual(counted, kept) {
					t.Fatalf("-counted +kept:\n%s", cmp.Diff(counted, kept))
				}
			})
		}
		t.Repeat(actions)
	})
}

// BenchmarkOnePodOf changes the readiness of one pod of a set and plans, on the loop's own snapshot: by
// what is kept of it, and by looking at each node.
func BenchmarkOnePodOf(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		w, v := fleet(b, n), mirror()
		for _, res := range mirrored {
			v.Replace(res, w.List(res, ""), 1)
		}
		states := map[bool][]object.Object{true: w.List(kinds.Pods, "")}
		for _, o := range states[true] {
			down := o.(*corev1.Pod).DeepCopy()
			down.Status.Conditions[0].Status = corev1.ConditionFalse
			states[false] = append(states[false], down)
		}
		now := w.Now.Add(time.Minute)
		i := 0
		for _, way := range []string{"kept", "each"} {
			b.Run(fmt.Sprintf("%s/%d", way, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					v.Apply(view.Event{Type: watch.Modified, Object: states[i%2 == 1][i/2*7919%n], Revision: uint64(2 + i)})
					v.Read(func(r object.Reader) {
						if way == "each" {
							r = struct{ object.Reader }{r}
						}
						daemonset.Plan(plan.Input{Reader: r, Key: key, Now: now})
					})
					i++
				}
			})
		}
	}
}
