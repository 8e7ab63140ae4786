package revision_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/revision"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func template(image string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "zone": "a<b>&c"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64),
			Containers:                    []corev1.Container{{Name: "c", Image: image, Args: []string{"<x>"}}},
		},
	}
}

// drawn draws a template with everything that could upset an encoding.
func drawn(t *rapid.T) *corev1.PodTemplateSpec {
	texts := rapid.MapOf(rapid.StringMatching(`[a-z]{1,8}`), rapid.String())
	id := rapid.Int64Range(0, 1<<31-1).Draw(t, "user")
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: texts.Draw(t, "labels"), Annotations: texts.Draw(t, "annotations")},
		Spec: corev1.PodSpec{
			NodeSelector:    texts.Draw(t, "selector"),
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &id},
			Containers:      []corev1.Container{{Name: "c", Image: rapid.String().Draw(t, "image")}},
		},
	}
}

func TestPatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawn(t)
		first, err := revision.Patch(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := revision.Template(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: first}})
		if err != nil {
			t.Fatal(err)
		}
		second, err := revision.Patch(got)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Fatalf("equal templates give different bytes:\n%s\n%s", first, second)
		}
	})
}

func TestHash(t *testing.T) {
	patch, err := revision.Patch(template("app:1"))
	if err != nil {
		t.Fatal(err)
	}
	one, two := int32(1), int32(2)
	seen := map[string]bool{}
	for _, count := range []*int32{nil, &one, &two} {
		h := revision.Hash(patch, count)
		if h != revision.Hash(patch, count) || seen[h] {
			t.Errorf("collision count %v: hash %s is not stable or not distinct", count, h)
		}
		if strings.Trim(h, "bcdfghjklmnpqrstvwxz2456789") != "" {
			t.Errorf("hash %s leaves the safe alphabet", h)
		}
		seen[h] = true
	}
	if zero := int32(0); revision.Hash(patch, &zero) != revision.Hash(patch, nil) {
		t.Error("a collision count of zero changes the hash")
	}
}

// TestName: an owner's name is cut so that the revision's name fits, as an object's name or as a label's value, and is valid.
func TestName(t *testing.T) {
	hash := strings.Repeat("h", 10)
	for _, tc := range []struct{ owner, label, want string }{
		{"web", revision.HashLabel, "web-" + hash},
		{strings.Repeat("x", 52), revision.HashLabel, strings.Repeat("x", 52) + "-" + hash},
		{strings.Repeat("x", 61), revision.HashLabel, strings.Repeat("x", 52) + "-" + hash},
		{strings.Repeat("x", 51) + "-yz", revision.HashLabel, strings.Repeat("x", 51) + "-" + hash},
		{strings.Repeat("x", 61), appsv1.DefaultDaemonSetUniqueLabelKey, strings.Repeat("x", 61) + "-" + hash},
		{strings.Repeat("x", 222) + "." + strings.Repeat("y", 30), appsv1.DefaultDaemonSetUniqueLabelKey, strings.Repeat("x", 222) + "-" + hash},
	} {
		o := revision.Owner{Object: &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: tc.owner}}, Label: tc.label}
		if got := o.Name(hash); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.owner, got, tc.want)
		}
	}
}

func TestTemplateRefuses(t *testing.T) {
	for _, data := range []string{"", "{}", `{"spec":{}}`, `[1]`, `{"spec":{"template":7}}`} {
		rev := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-1"}, Data: runtime.RawExtension{Raw: []byte(data)}}
		if _, err := revision.Template(rev); err == nil || !strings.Contains(err.Error(), "ns/web-1") {
			t.Errorf("data %q: error %v does not name the revision", data, err)
		}
	}
}

// owner puts a StatefulSet into a world and returns the view of it as an owner.
func owner(w *model.World, image string) revision.Owner {
	set := w.Put(&appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{
			"kubernetes.io/change-cause": "because", corev1.LastAppliedConfigAnnotation: "{}"}},
		Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: *template(image)},
	}).(*appsv1.StatefulSet)
	return revision.Owner{Object: set, Selector: labels.SelectorFromSet(labels.Set{"app": "web"}), Template: &set.Spec.Template,
		Now: w.Now, Label: revision.HashLabel, Collisions: set.Status.CollisionCount}
}

// settle carries out what Read asks for until it asks for nothing.
func settle(t *testing.T, w *model.World, o revision.Owner) revision.History {
	t.Helper()
	for range 5 {
		h, err := revision.Read(w, o, "")
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Actions) == 0 {
			return h
		}
		if h.Collisions != nil {
			o.Collisions = h.Collisions
		}
		if out := w.Apply(plan.Plan{Actions: h.Actions}); out.Failure != nil {
			t.Fatal(out.Failure)
		}
	}
	t.Fatal("the history does not settle")
	return revision.History{}
}

func numbers(h revision.History) []int64 {
	var list []int64
	for _, rev := range h.Owned {
		list = append(list, rev.Revision)
	}
	return list
}

func TestReadHistory(t *testing.T) {
	w := model.New(epoch)
	first := settle(t, w, owner(w, "app:1"))
	if got := first.Present.Annotations; len(got) != 1 || got["kubernetes.io/change-cause"] != "because" {
		t.Errorf("annotations of the revision: %v", got)
	}
	w.Now = epoch.Add(time.Hour)
	settle(t, w, owner(w, "app:2"))
	w.Now = epoch.Add(2 * time.Hour)
	back := settle(t, w, owner(w, "app:1"))
	if diff := cmp.Diff([]int64{2, 3}, numbers(back)); diff != "" {
		t.Errorf("numbers after a rollback (-want +got):\n%s", diff)
	}
	if back.Present.Name != first.Present.Name || !revision.Since(back.Present).Equal(w.Now) || !revision.Since(first.Present).Equal(epoch) {
		t.Errorf("present %s since %s; first %s since %s", back.Present.Name, revision.Since(back.Present), first.Present.Name, revision.Since(first.Present))
	}
	if back.Named("web-none") != nil || back.Named("") != nil || back.Named(back.Present.Name) != back.Present {
		t.Error("Named does not find what is there and only that")
	}
}

// TestReadTrusts spares the encoding when the present revision is known, but only while it is the
// newest.
func TestReadTrusts(t *testing.T) {
	w := model.New(epoch)
	old := settle(t, w, owner(w, "app:1")).Present
	o := owner(w, "app:2")
	settle(t, w, o)
	h, err := revision.Read(w, o, old.Name)
	if err != nil || h.Present.Name == old.Name {
		t.Errorf("a revision that is not the newest was trusted: %v, %v", h.Present, err)
	}
}

func TestReadCollision(t *testing.T) {
	w := model.New(epoch)
	name := settle(t, w, owner(w, "app:1")).Present.Name
	w = model.New(epoch)
	w.Put(&appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: runtime.RawExtension{Raw: []byte(`{"other":1}`)}})
	h, err := revision.Read(w, owner(w, "app:1"), "")
	if err != nil || h.Collisions == nil || *h.Collisions != 1 || len(h.Actions) != 1 {
		t.Fatalf("collisions %v, actions %v, error %v", h.Collisions, h.Actions, err)
	}
	if made := h.Actions[0].Target().Name; made == name {
		t.Errorf("revision is created under the taken name %s", made)
	}
}

// TestReadAdoptsItsName takes over a revision that holds the template, that nobody controls, and that
// does not match the selector.
func TestReadAdoptsItsName(t *testing.T) {
	w := model.New(epoch)
	made := settle(t, w, owner(w, "app:1")).Present
	w = model.New(epoch)
	w.Put(&appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: made.Name}, Data: made.Data})
	h, err := revision.Read(w, owner(w, "app:1"), "")
	if err != nil || len(h.Actions) != 1 {
		t.Fatalf("actions %v, error %v", h.Actions, err)
	}
	if u, ok := h.Actions[0].(plan.Update); !ok || u.Object.GetName() != made.Name || !plan.HasGuard[plan.Alive](u.When) {
		t.Errorf("not an adoption by a living owner: %+v", h.Actions[0])
	}
	if got := settle(t, w, owner(w, "app:1")); got.Present.Name != made.Name || len(got.Owned) != 1 {
		t.Errorf("settles with %v", got.Owned)
	}
}

// TestReadDifferentSpelling finds a revision that was exported and applied again, spelled otherwise.
func TestReadDifferentSpelling(t *testing.T) {
	w := model.New(epoch)
	h := settle(t, w, owner(w, "app:1"))
	model.Edit(w, "default", h.Present.Name, func(rev *appsv1.ControllerRevision) {
		rev.Data.Raw = append([]byte("  "), rev.Data.Raw...)
	})
	again, err := revision.Read(w, owner(w, "app:1"), "")
	if err != nil || len(again.Actions) != 0 || again.Present == nil {
		t.Errorf("actions %v, error %v", again.Actions, err)
	}
}

func TestForget(t *testing.T) {
	w := model.New(epoch)
	var h revision.History
	for _, image := range []string{"a", "b", "c", "d", "e"} {
		h = settle(t, w, owner(w, image))
	}
	inUse := h.Owned[1].Name
	live := func(rev *appsv1.ControllerRevision) bool { return rev.Name == inUse }
	for _, tc := range []struct {
		limit     int
		countLive bool
		want      []int64
	}{
		{10, false, nil}, {-1, false, nil}, {3, false, nil}, {4, true, nil}, {3, true, []int64{1}},
		{1, false, []int64{1, 3}}, {1, true, []int64{1, 3, 4}}, {0, false, []int64{1, 3, 4}}, {0, true, []int64{1, 3, 4}},
	} {
		var got []int64
		for _, a := range h.Forget(tc.limit, tc.countLive, live) {
			o, _ := w.Get(resource.ControllerRevisions, "default", a.Target().Name)
			got = append(got, o.(*appsv1.ControllerRevision).Revision)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("limit %d, countLive %t (-want +got):\n%s", tc.limit, tc.countLive, diff)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	w := model.New(epoch)
	o := owner(w, "app:1")
	h, _ := revision.Read(w, o, "")
	w.Apply(plan.Plan{Actions: h.Actions})
	h, _ = revision.Read(w, o, "")
	for _, known := range []string{"", h.Present.Name} {
		b.Run("known="+known, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if h, err := revision.Read(w, o, known); err != nil || len(h.Actions) > 0 {
					b.Fatal(err, h.Actions)
				}
			}
		})
	}
}
