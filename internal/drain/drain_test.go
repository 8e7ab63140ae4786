package drain

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
)

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		annotation string
		grace      int64
		want       time.Duration
		problem    bool
	}{
		{"", 30, 2 * time.Second, false},
		{"", 4, 2 * time.Second, false},
		{"", 3, 1500 * time.Millisecond, false},
		{"", 0, 0, false},
		{"0s", 30, 0, false},
		{"10s", 30, 10 * time.Second, false},
		{"20s", 30, 15 * time.Second, false},
		{"soon", 30, 2 * time.Second, true},
		{"-1s", 30, 2 * time.Second, true},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionGracePeriodSeconds: &c.grace}}
		if c.annotation != "" {
			p.Annotations = map[string]string{Timeout: c.annotation}
		}
		if got, problem := Limit(p); got != c.want || (problem != nil) != c.problem {
			t.Errorf("%q with %d s: %s, %v", c.annotation, c.grace, got, problem)
		}
	}
}

func TestServes(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", Labels: map[string]string{"app": "web", "x": "y"}}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if change != nil {
			change(p)
		}
		return p
	}
	// unready has not been ready for so long when it is deleted, a minute after its start.
	unready := func(since time.Duration) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			start, grace := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), int64(30)
			p.Status.StartTime = &metav1.Time{Time: start}
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: start.Add(90 * time.Second)}, &grace
			p.Status.Conditions[0].Status = corev1.ConditionFalse
			p.Status.Conditions[0].LastTransitionTime = metav1.Time{Time: start.Add(time.Minute - since)}
		})
	}
	service := func(change func(*corev1.Service)) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
		if change != nil {
			change(s)
		}
		return s
	}
	for name, c := range map[string]struct {
		service *corev1.Service
		pod     *corev1.Pod
		want    bool
	}{
		"selected":             {service(nil), pod(nil), true},
		"not ready":            {service(nil), pod(func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }), false},
		"ready until just now": {service(nil), unready(time.Second), true},
		"ready some time ago":  {service(nil), unready(6 * time.Second), false},
		"never ready":          {service(nil), unready(time.Minute), false},
		"never ready, and young": {service(nil), func() *corev1.Pod {
			p := unready(0)
			p.Status.StartTime = p.Status.Conditions[0].LastTransitionTime.DeepCopy()
			return p
		}(), false},
		"other labels":                {service(nil), pod(func(p *corev1.Pod) { p.Labels = nil }), false},
		"another namespace":           {service(func(s *corev1.Service) { s.Namespace = "b" }), pod(nil), false},
		"no selector":                 {service(func(s *corev1.Service) { s.Spec.Selector = nil }), pod(nil), false},
		"only a name":                 {service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), pod(nil), false},
		"publishes what is not ready": {service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), pod(nil), false},
		"a service that goes":         {service(func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{} }), pod(nil), false},
	} {
		if got := Serves(c.service, c.pod); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestLeft(t *testing.T) {
	endpoint := func(name string, ready *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "a", Name: name}, Conditions: discoveryv1.EndpointConditions{Ready: ready},
		}
	}
	slice := func(revision string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{ResourceVersion: revision}, Endpoints: endpoints}
	}
	yes, no := ptr(true), ptr(false)
	for name, c := range map[string]struct {
		slices   []*discoveryv1.EndpointSlice
		revision uint64
		left     bool
	}{
		"nothing is known of it":      {nil, 0, false},
		"only others":                 {[]*discoveryv1.EndpointSlice{slice("7", endpoint("db", no))}, 0, false},
		"it is offered":               {[]*discoveryv1.EndpointSlice{slice("7", endpoint("web", yes))}, 0, false},
		"it is offered, by default":   {[]*discoveryv1.EndpointSlice{slice("7", endpoint("web", nil))}, 0, false},
		"it has left":                 {[]*discoveryv1.EndpointSlice{slice("7", endpoint("db", yes), endpoint("web", no))}, 7, true},
		"it has left one of two":      {[]*discoveryv1.EndpointSlice{slice("7", endpoint("web", no)), slice("9", endpoint("web", yes))}, 0, false},
		"it has left both":            {[]*discoveryv1.EndpointSlice{slice("7", endpoint("web", no)), slice("9", endpoint("web", no)), slice("11")}, 9, true},
		"a revision that is a riddle": {[]*discoveryv1.EndpointSlice{slice("x", endpoint("web", no))}, 0, false},
	} {
		if revision, left := Left(object.Key{Namespace: "a", Name: "web"}, c.slices); revision != c.revision || left != c.left {
			t.Errorf("%s: %d %v", name, revision, left)
		}
	}
}
