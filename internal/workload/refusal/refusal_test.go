package refusal_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/refusal"
)

// TestWatches: only what may let a refused write through wakes, and only who lacks something there.
func TestWatches(t *testing.T) {
	w := model.New(time.Unix(0, 0))
	for _, name := range []string{"whole", "lacking"} {
		w.Put(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
		w.Put(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "elsewhere", Name: name}})
	}
	watches := refusal.Watches(resource.ReplicaSets, func(o object.Object) bool { return o.GetName() == "lacking" })
	quota := func(hard, used string) *corev1.ResourceQuota {
		list := func(n string) corev1.ResourceList { return corev1.ResourceList{"pods": quantity.MustParse(n)} }
		return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: corev1.ResourceQuotaSpec{Hard: list(hard)},
			Status: corev1.ResourceQuotaStatus{Hard: list(hard), Used: list(used)}}
	}
	limits := func(kind corev1.LimitType) *corev1.LimitRange {
		return &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: kind}}}}
	}
	for _, x := range []struct {
		name          string
		before, after object.Object
		wakes         bool
	}{
		{"quota made", nil, quota("1", "0"), false},
		{"quota used up", quota("1", "0"), quota("1", "1"), false},
		{"usage falls", quota("1", "1"), quota("1", "0"), true},
		{"quota raised", quota("1", "1"), quota("2", "1"), true},
		{"quota gone", quota("1", "1"), nil, true},
		{"range made", nil, limits("Pod"), true},
		{"range changed", limits("Pod"), limits("Container"), true},
		{"range as it was", limits("Pod"), limits("Pod"), false},
		{"range gone", limits("Pod"), nil, true},
	} {
		watch := watches[0]
		if strings.HasPrefix(x.name, "range") {
			watch = watches[1]
		}
		want := "[]"
		if x.wakes {
			want = "[default/lacking]"
		}
		if got := fmt.Sprint(watch.Keys(w, x.before, x.after)); got != want {
			t.Errorf("%s: %s, want %s", x.name, got, want)
		}
	}
}

func TestHint(t *testing.T) {
	for message, want := range map[string]string{
		`pods "p" is forbidden: exceeded quota: q, requested: pods=1`:                 "raise the ResourceQuota",
		`pods "p" is forbidden: failed quota: q: must specify limits.cpu for: c`:      "create a LimitRange that gives defaults",
		`pods "p" is forbidden: maximum cpu usage per Container is 1, but limit is 2`: "kubectl describe limits",
		`pods "p" is forbidden: error looking up service account`:                     "change the pod template",
		`Pod "p" is invalid: spec.containers: Required value`:                         "change the pod template",
		"Internal error occurred: disk":                                               "",
	} {
		if got := refusal.Hint(message); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q", message, got)
		}
	}
}
