package claim_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/claim"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func set(name string, uid types.UID) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid},
		Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}}}
}

func pod(name, app string, owners ...metav1.OwnerReference) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}, OwnerReferences: owners}}
}

func owner(uid types.UID, controls bool) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: uid, Controller: &controls}
}

func selector(o object.Object) (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(o.(*appsv1.ReplicaSet).Spec.Selector)
}

// world holds pods of every standing towards the replica set "web" with UID "me".
func world() *model.World {
	w := model.New(start)
	w.Put(set("web", "me"))
	leaving := pod("orphan-leaving", "web")
	leaving.DeletionTimestamp, leaving.Finalizers = &metav1.Time{Time: start}, []string{"x/y"}
	elsewhere := pod("orphan-elsewhere", "web")
	elsewhere.Namespace = "other"
	for _, p := range []*corev1.Pod{pod("mine", "web", owner("me", true)), pod("mine-astray", "db", owner("me", true)),
		pod("theirs", "web", owner("you", true)), pod("orphan", "web"), pod("orphan-other", "db"),
		pod("orphan-owned", "web", owner("you", false)), pod("orphan-half-mine", "web", owner("me", false)), leaving, elsewhere} {
		w.Put(p)
	}
	return w
}

func claimAll(w *model.World, change func(*appsv1.ReplicaSet)) (mine, adopted, released []string) {
	o, _ := w.Get(resource.ReplicaSets, "default", "web")
	rs := o.(*appsv1.ReplicaSet).DeepCopy()
	if change != nil {
		change(rs)
	}
	ours, _ := selector(rs)
	by := claim.Owner{Object: rs, Selector: ours}
	objs, edits := claim.Objects(w, resource.Pods, by, nil)
	for _, o := range objs {
		mine = append(mine, o.GetName())
	}
	for _, e := range edits {
		u := e.(plan.Update)
		if claim.ControlledBy(u.Object, rs.UID) {
			adopted = append(adopted, u.Object.GetName())
			if !slices.Contains(u.When, plan.Guard(plan.Alive{Ref: object.RefOf(rs)})) || len(u.Object.GetOwnerReferences()) > 2 {
				adopted = append(adopted, "adopted carelessly")
			}
		} else {
			released = append(released, u.Object.GetName())
		}
	}
	if claim.AnyOrphan(w, resource.Pods, by) != (len(adopted) > 0) {
		adopted = append(adopted, "AnyOrphan says otherwise")
	}
	slices.Sort(mine)
	return mine, adopted, released
}

func TestObjects(t *testing.T) {
	mine, adopted, released := claimAll(world(), nil)
	if diff := cmp.Diff([]string{"mine", "orphan", "orphan-half-mine", "orphan-owned"}, mine); diff != "" {
		t.Errorf("mine: (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"orphan", "orphan-half-mine", "orphan-owned"}, adopted); diff != "" {
		t.Errorf("adopted: (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"mine-astray"}, released); diff != "" {
		t.Errorf("released: (-want +got)\n%s", diff)
	}
}

func TestDyingOwnerKeepsOut(t *testing.T) {
	mine, adopted, released := claimAll(world(), func(rs *appsv1.ReplicaSet) { rs.DeletionTimestamp = &metav1.Time{Time: start} })
	if len(mine) != 1 || len(adopted) != 0 || len(released) != 0 {
		t.Errorf("mine %v, adopted %v, released %v", mine, adopted, released)
	}
}

func TestEmptySelectorAdoptsNothing(t *testing.T) {
	_, adopted, _ := claimAll(world(), func(rs *appsv1.ReplicaSet) { rs.Spec.Selector = &metav1.LabelSelector{} })
	if len(adopted) != 0 {
		t.Errorf("adopted %v", adopted)
	}
}

// TestUnlabelled: a selector that asks for the absence of a label takes what has no labels at all.
func TestUnlabelled(t *testing.T) {
	w := world()
	bare := pod("bare", "")
	bare.Labels = nil
	w.Put(bare)
	absent := func(rs *appsv1.ReplicaSet) {
		rs.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "app", Operator: metav1.LabelSelectorOpDoesNotExist}}}
	}
	if _, adopted, _ := claimAll(w, absent); !slices.Equal(adopted, []string{"bare"}) {
		t.Errorf("adopted %v", adopted)
	}
	rs := set("absent", "absent")
	absent(rs)
	w.Put(rs)
	watch := claim.Watch(resource.Pods, resource.ReplicaSets, selector, nil)
	if keys := watch.Keys(w, nil, bare); len(keys) != 1 || keys[0].Name != "absent" {
		t.Errorf("the pod bears on %v", keys)
	}
}

func TestEditsLeaveTheWorldAlone(t *testing.T) {
	w := world()
	before, _ := w.Get(resource.Pods, "default", "orphan")
	was := before.(*corev1.Pod).DeepCopy()
	claimAll(w, nil)
	if diff := cmp.Diff(was, before); diff != "" {
		t.Errorf("a shared object was changed:\n%s", diff)
	}
}

func TestWatch(t *testing.T) {
	w := world()
	w.Put(set("db", "db"))
	watch := claim.Watch(resource.Pods, resource.ReplicaSets, selector, func(a, b object.Object) bool {
		return a.GetResourceVersion() == b.GetResourceVersion()
	})
	get := func(name string) object.Object {
		o, _ := w.Get(resource.Pods, "default", name)
		return o
	}
	moved := get("mine").DeepCopyObject().(*corev1.Pod)
	moved.ResourceVersion, moved.OwnerReferences, moved.Labels = "99", nil, map[string]string{"app": "db"}
	for _, c := range []struct {
		name          string
		before, after object.Object
		want          []string
	}{
		{"created", nil, get("mine"), []string{"web"}},
		{"deleted", get("mine"), nil, []string{"web"}},
		{"nothing of interest", get("mine"), get("mine"), nil},
		{"another owner's", nil, get("theirs"), nil},
		{"an orphan", nil, get("orphan"), []string{"web"}},
		{"an orphan that leaves", nil, get("orphan-leaving"), nil},
		{"an orphan gone", get("orphan"), nil, nil},
		{"released towards another", get("mine"), moved, []string{"web", "db"}},
	} {
		var got []string
		for _, k := range watch.Keys(w, c.before, c.after) {
			got = append(got, k.Name)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
	}
}
