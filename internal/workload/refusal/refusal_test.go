package refusal_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/quota"
	"coracle/internal/quota/limits"
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
	limit := func(hard, used string) *corev1.ResourceQuota {
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
		{"quota made", nil, limit("1", "0"), false},
		{"quota used up", limit("1", "0"), limit("1", "1"), false},
		{"usage falls", limit("1", "1"), limit("1", "0"), true},
		{"quota raised", limit("1", "1"), limit("2", "1"), true},
		{"quota gone", limit("1", "1"), nil, true},
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

// TestHint: what is said of a refusal follows from its causes and its reason, never from its words.
func TestHint(t *testing.T) {
	pod := func(cpu string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
		if cpu != "" {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": quantity.MustParse(cpu)}
		}
		return p
	}
	charged := func(p *corev1.Pod, known bool) error {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"},
			Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"requests.cpu": quantity.MustParse("1")}}}
		if known {
			q.Status.Used = corev1.ResourceList{"requests.cpu": quantity.MustParse("0")}
		}
		_, err := quota.Bill([]*corev1.ResourceQuota{q}, resource.Pods, p, nil, time.Unix(0, 0))
		return err
	}
	bounded := func() error {
		r := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: corev1.LimitRangeSpec{
			Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Min: corev1.ResourceList{"cpu": quantity.MustParse("2")}}}}}
		violated := limits.CheckPod(r, pod("1"))
		return limits.Blame(apierrors.NewForbidden(resource.Pods.GroupResource(), "p", violated), r, violated)
	}
	for name, tc := range map[string]struct {
		err         error
		hint, quota string
	}{
		"quota used up":            {charged(pod("2"), true), "raise the ResourceQuota", "q"},
		"request that is missing":  {charged(pod(""), true), "create a LimitRange that gives defaults", "q"},
		"usage that is not known":  {charged(pod("1"), false), "", "q"},
		"out of bounds":            {bounded(), "kubectl describe limits", ""},
		"forbidden":                {apierrors.NewForbidden(resource.Pods.GroupResource(), "p", errors.New("no such account")), "change the pod template", ""},
		"forbidden, in like words": {apierrors.NewForbidden(resource.Pods.GroupResource(), "p", errors.New("exceeded quota: x")), "change the pod template", ""},
		"invalid":                  {apierrors.NewInvalid(resource.Pods.GVK().GroupKind(), "p", nil), "change the pod template", ""},
		"something else":           {apierrors.NewInternalError(errors.New("exceeded quota: disk")), "", ""},
	} {
		s := tc.err.(apierrors.APIStatus).Status()
		if got := refusal.Hint(s); !strings.Contains(got, tc.hint) || tc.hint == "" && got != "" {
			t.Errorf("%s: hint %q, want %q", name, got, tc.hint)
		}
		if got := refusal.On(s, "default"); got.Name != tc.quota {
			t.Errorf("%s: on %v, want quota %q", name, got, tc.quota)
		}
	}
}
