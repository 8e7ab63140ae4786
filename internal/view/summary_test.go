package view_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// versions is a tally that holds what it was told in full: which version of which object counts.
type versions map[string]string

func (v versions) Change(before, after object.Object) {
	if before != nil {
		if v[before.GetName()] != before.GetResourceVersion() {
			panic("it was told of a version that went, and not that it came")
		}
		delete(v, before.GetName())
	}
	if after != nil {
		v[after.GetName()] = after.GetResourceVersion()
	}
}

const byApp = "app"

func summaryOf(index, name string) object.Summary {
	return object.Summary{Resource: resource.Pods, Index: index, Name: name,
		Of:    func(o object.Object) bool { return o.GetLabels()["counts"] != "no" },
		Empty: func() object.Tally { return versions{} },
	}
}

// TestSummaries: whatever happens, and whenever a summary is declared, the tallies kept are those of a full count.
func TestSummaries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		apps := object.Index{Resource: resource.Pods, Name: byApp, Values: func(o object.Object) []string {
			return strings.Split(o.GetLabels()["app"], ".")
		}}
		sums := []object.Summary{summaryOf(object.ByController, "own"), summaryOf(byApp, "apps")}
		v := view.New(apps)
		v.AddSummaries(sums[0])
		late := rapid.IntRange(0, 20).Draw(t, "late")
		for i := range 40 {
			if i == late {
				v.AddSummaries(sums...)
			}
			if rapid.IntRange(0, 9).Draw(t, "relist") == 0 {
				var list []object.Object
				for n := range rapid.IntRange(0, 4).Draw(t, "listed") {
					list = append(list, drawPod(t, n, i))
				}
				v.Replace(resource.Pods, list, uint64(i+1))
				continue
			}
			kind := rapid.SampledFrom([]watch.EventType{watch.Added, watch.Modified, watch.Deleted}).Draw(t, "event")
			v.Apply(view.Event{Type: kind, Object: drawPod(t, rapid.IntRange(0, 5).Draw(t, "pod"), i)})
		}
		v.AddIndexes(apps) // declared again, as by another controller
		for _, s := range sums {
			for _, value := range []string{"u0", "u1", "a", "b", ""} {
				want := object.Tallied(v, &s, value) // the view itself has no snapshot to lend: it is counted
				v.Read(func(r object.Reader) {
					if got := object.Tallied(r, &s, value); !maps.Equal(got.(versions), want.(versions)) {
						t.Fatalf("%s of %q: %v, want %v", s.Name, value, got, want)
					}
				})
			}
		}
	})
}

func drawPod(t *rapid.T, n, revision int) *corev1.Pod {
	yes := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", n), UID: types.UID(fmt.Sprint(rapid.IntRange(0, 1).Draw(t, "uid"))),
		ResourceVersion: fmt.Sprint(revision + 1), Labels: map[string]string{
			"app": rapid.SampledFrom([]string{"a", "b", "a.b", ""}).Draw(t, "app"), "counts": rapid.SampledFrom([]string{"", "no"}).Draw(t, "counts")}}}
	if owner := rapid.SampledFrom([]string{"u0", "u1", ""}).Draw(t, "owner"); owner != "" {
		pod.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(owner), Controller: &yes}}
	}
	return pod
}

// TestSummaryOfNoIndex: a summary of an index that nobody declared is a defect, and is said to be one.
func TestSummaryOfNoIndex(t *testing.T) {
	defer func() {
		if cause := recover(); cause == nil || !strings.Contains(fmt.Sprint(cause), `"app"`) {
			t.Errorf("panic: %v", cause)
		}
	}()
	view.New().AddSummaries(summaryOf(byApp, "apps"))
}
