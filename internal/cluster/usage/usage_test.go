package usage_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"coracle/internal/cluster/usage"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario"
	"coracle/internal/scenario/model"
)

func TestScenarios(t *testing.T) { scenario.Run(t, "testdata", usage.Controller()) }

// TestUsedIsWhatIsThere: whatever comes and goes, and whatever the status says before, one plan makes
// it the truth and the next plans nothing; and each change that alters the truth asks for the plan.
func TestUsedIsWhatIsThere(t *testing.T) {
	ctl := usage.Controller()
	rapid.Check(t, func(t *rapid.T) {
		w := model.New(scenario.Epoch, ctl)
		hard := corev1.ResourceList{"pods": quantity.MustParse("5"), "count/pods": quantity.MustParse("5")}
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
		if rapid.Bool().Draw(t, "wrong before") {
			q.Status.Used = corev1.ResourceList{"pods": quantity.MustParse("9"), "secrets": quantity.MustParse("1")}
		}
		key := object.KeyOf(w.Put(q))
		pods, living := map[string]bool{}, map[string]bool{}
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
			if rapid.Bool().Draw(t, "goes") {
				w.Remove(resource.Pods, "default", name)
				delete(pods, name)
				delete(living, name)
			} else {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
				pods[name], living[name] = true, true
				if rapid.Bool().Draw(t, "ended") {
					p.Status.Phase = corev1.PodFailed
					delete(living, name)
				}
				w.Put(p)
			}
			w.Apply(ctl.Plan(plan.Input{Reader: w, Key: key, Now: w.Now}))
			o, _ := w.Get(resource.ResourceQuotas, "default", "q")
			used := o.(*corev1.ResourceQuota).Status.Used
			if got, want := fmt.Sprint(used.Pods().Value(), len(used)), fmt.Sprint(len(living), 2); got != want {
				t.Fatalf("used %v, want %d living of %d", used, len(living), len(pods))
			}
			if all := used["count/pods"]; all.Value() != int64(len(pods)) {
				t.Fatalf("used %v, want %d pods", used, len(pods))
			}
			if p := ctl.Plan(plan.Input{Reader: w, Key: key, Now: w.Now}); p.Status != nil || len(p.Actions) > 0 {
				t.Fatal("planned again on the truth, it writes")
			}
		}
	})
}

// TestOutstayingPodIsLookedAtAgain when it stops to count, though nothing changes.
func TestOutstayingPodIsLookedAtAgain(t *testing.T) {
	ctl := usage.Controller()
	w := model.New(scenario.Epoch, ctl)
	hard := corev1.ResourceList{"pods": quantity.MustParse("5")}
	key := object.KeyOf(w.Put(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}))
	grace := int64(30)
	w.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", Finalizers: []string{"x/y"},
		DeletionTimestamp: &metav1.Time{Time: w.Now.Add(30 * time.Second)}, DeletionGracePeriodSeconds: &grace}})
	p := ctl.Plan(plan.Input{Reader: w, Key: key, Now: w.Now})
	if used := p.Status.(*corev1.ResourceQuota).Status.Used.Pods().Value(); used != 1 || p.Again.Sub(w.Now).Truncate(time.Second) != time.Minute {
		t.Fatalf("used %d, again after %s", used, p.Again.Sub(w.Now))
	}
	w.Apply(p)
	if p = ctl.Plan(plan.Input{Reader: w, Key: key, Now: p.Again}); p.Status == nil || p.Status.(*corev1.ResourceQuota).Status.Used.Pods().Value() != 0 {
		t.Fatal("it still counts")
	}
}
