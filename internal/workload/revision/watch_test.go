package revision_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/revision"
)

// TestWatch: a revision that somebody makes beside one of equal content disturbs nobody, be it controlled by the set or by
// nobody; any other change of a revision does.
func TestWatch(t *testing.T) {
	w := model.New(epoch)
	settle(t, w, owner(w, "app:1"))
	h := settle(t, w, owner(w, "app:2"))
	selector := func(object.Object) (labels.Selector, error) {
		return labels.SelectorFromSet(labels.Set{"app": "web"}), nil
	}
	watch := revision.Watch(resource.StatefulSets, selector)
	like := func(change func(*appsv1.ControllerRevision)) object.Object {
		r := h.Present.DeepCopy()
		r.Name, r.UID, r.Revision = "mine", "mine", r.Revision+1
		change(r)
		return r
	}
	same := like(func(*appsv1.ControllerRevision) {})
	for _, tc := range []struct {
		name          string
		before, after object.Object
		keys          int
	}{
		{"a copy", nil, same, 0},
		{"a copy, spelled otherwise", nil, like(func(r *appsv1.ControllerRevision) { r.Data.Raw = append([]byte(" "), r.Data.Raw...) }), 0},
		{"a copy that nobody controls", nil, like(func(r *appsv1.ControllerRevision) { r.OwnerReferences = nil }), 0},
		{"the set's own, first seen", nil, h.Present, 1},
		{"other content", nil, like(func(r *appsv1.ControllerRevision) { r.Data.Raw = []byte(`{}`) }), 1},
		{"a copy that changes", same, like(func(r *appsv1.ControllerRevision) { r.Labels["x"] = "y" }), 1},
		{"a copy that goes", same, nil, 1},
	} {
		if got := watch.Keys(w, tc.before, tc.after); len(got) != tc.keys {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
