package endpoint_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"coracle/internal/cluster/endpoint"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// TestNewBeforeOld: whatever changes at once of a service's pods, which may serve at different ports and so are in different
// slices, no write on the way leaves fewer endpoints ready than there were before and will be after. So a node that has
// taken a pod out of its routes has its successor in them.
func TestNewBeforeOld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		controller := endpoint.Controllers()[0]
		v := view.New()
		v.AddIndexes(controller.Indexes...)
		revision := 0
		put := func(o object.Object) {
			revision++
			o.SetResourceVersion(fmt.Sprint(revision))
			v.Apply(view.Event{Type: watch.Modified, Object: o})
		}
		s := service()
		s.UID = "web"
		put(s)
		n := rapid.IntRange(1, 12).Draw(t, "pods")
		plans := func() (counts []int) {
			var p plan.Plan
			v.Read(func(r object.Reader) {
				p = controller.Plan(plan.Input{Reader: r, Key: object.KeyOf(s)})
			})
			for i, a := range p.Actions {
				switch a := a.(type) {
				case plan.Create:
					o := a.Object.DeepCopyObject().(object.Object)
					o.SetName(fmt.Sprintf("slice-%d-%d", revision, i))
					put(o)
				case plan.Update:
					put(a.Object.DeepCopyObject().(object.Object))
				case plan.Delete:
					revision++
					v.Apply(view.Event{Type: watch.Deleted, Resource: a.Object.Resource, Revision: uint64(revision), Object: &discoveryv1.EndpointSlice{
						ObjectMeta: metav1.ObjectMeta{Namespace: a.Object.Namespace, Name: a.Object.Name},
					}})
				}
				counts = append(counts, readyIn(v))
			}
			return counts
		}
		for round := range rapid.IntRange(1, 4).Draw(t, "rounds") {
			for i := range n {
				p := pod(fmt.Sprint("p", i), fmt.Sprintf("10.1.0.%d", i+1), rapid.Bool().Draw(t, "ready"))
				p.UID = types.UID(p.Name)
				p.Spec.Containers[0].Ports[0].ContainerPort = int32(8080 + i%3)
				if rapid.IntRange(0, 3).Draw(t, "ends") == 0 {
					p.DeletionTimestamp = &metav1.Time{}
				}
				if rapid.IntRange(0, 3).Draw(t, "there") == 0 {
					p.Status.Phase = corev1.PodFailed // it is no endpoint
				}
				put(p)
			}
			before := readyIn(v)
			counts := plans()
			for _, c := range counts {
				if after := counts[len(counts)-1]; c < min(before, after) {
					t.Fatalf("round %d: %d are ready before, then %v", round, before, counts)
				}
			}
		}
	})
}

func readyIn(v *view.View) (n int) {
	for _, o := range v.List(resource.EndpointSlices, "d") {
		for _, e := range o.(*discoveryv1.EndpointSlice).Endpoints {
			if *e.Conditions.Ready {
				n++
			}
		}
	}
	return n
}
