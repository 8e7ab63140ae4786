package podspec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/kubectl/pkg/util/qos"
	"pgregory.net/rapid"
)

// anyResources draws requests that do not exceed the limits, as validation sees to.
func anyResources(t *rapid.T) corev1.ResourceRequirements {
	r := corev1.ResourceRequirements{Limits: corev1.ResourceList{}, Requests: corev1.ResourceList{}}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, "example.com/gpu"} {
		limit := rapid.Int64Range(-1, 2).Draw(t, "limit")
		most := limit
		if limit < 0 {
			most = 2
		} else {
			r.Limits[name] = *resource.NewQuantity(limit, resource.DecimalSI)
		}
		if request := rapid.Int64Range(-1, most).Draw(t, "request"); request >= 0 {
			r.Requests[name] = *resource.NewQuantity(request, resource.DecimalSI)
		}
	}
	return r
}

// TestQOSAgrees: the class is the one that kubectl computes for the same pod, once requests are
// filled in from limits.
func TestQOSAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s corev1.PodSpec
		for range rapid.IntRange(1, 3).Draw(t, "containers") {
			s.Containers = append(s.Containers, corev1.Container{Resources: anyResources(t)})
		}
		if rapid.Bool().Draw(t, "init") {
			s.InitContainers = append(s.InitContainers, corev1.Container{Resources: anyResources(t)})
		}
		if rapid.Bool().Draw(t, "pod level") {
			whole := anyResources(t)
			s.Resources = &whole
		}
		DefaultPod(&s)
		if got, want := QOS(&s), qos.GetPodQOS(&corev1.Pod{Spec: s}); got != want {
			t.Fatalf("%s, kubectl says %s: %+v %+v", got, want, s.Containers, s.Resources)
		}
	})
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways, "nginx:1": corev1.PullIfNotPresent,
		"registry:5000/nginx": corev1.PullAlways, "registry:5000/nginx:2": corev1.PullIfNotPresent,
		"nginx@sha256:0123": corev1.PullIfNotPresent, "nginx:latest@sha256:0123": corev1.PullAlways,
		"registry:5000/a/b@sha256:0123": corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}
