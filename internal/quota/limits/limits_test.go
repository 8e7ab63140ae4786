package limits

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
)

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = quantity.MustParse(pairs[i+1])
	}
	return out
}

func ranged(items ...corev1.LimitRangeItem) *corev1.LimitRange {
	return &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: items}}
}

func pod(requests, limits corev1.ResourceList) *corev1.Pod {
	c := corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
}

func TestDefaults(t *testing.T) {
	p := pod(list("cpu", "1"), nil)
	p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
	Default(ranged(corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: list("cpu", "2", "memory", "1Gi"), DefaultRequest: list("cpu", "500m", "memory", "1Gi")}), p)
	c, i := p.Spec.Containers[0].Resources, p.Spec.InitContainers[0].Resources
	if c.Requests.Cpu().String() != "1" || c.Limits.Cpu().String() != "2" || i.Requests.Cpu().String() != "500m" || i.Limits.Memory().String() != "1Gi" {
		t.Errorf("container %v, init container %v", c, i)
	}
	const want = "LimitRanger plugin set: memory request for container c; cpu, memory limit for container c; cpu, memory request for init container i; cpu, memory limit for init container i"
	if got := p.Annotations[Annotation]; got != want {
		t.Errorf("annotation %q", got)
	}
	full := pod(list("cpu", "1"), list("cpu", "1"))
	Default(ranged(corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: list("cpu", "2")}), full)
	if full.Annotations != nil {
		t.Errorf("annotation on a pod that needs nothing: %v", full.Annotations)
	}
}

func TestBounds(t *testing.T) {
	container, whole := corev1.LimitTypeContainer, corev1.LimitTypePod
	for _, x := range []struct {
		item             corev1.LimitRangeItem
		requests, limits corev1.ResourceList
		want             string
	}{
		{corev1.LimitRangeItem{Type: container, Max: list("cpu", "1")}, nil, list("cpu", "2"), "maximum cpu usage per Container is 1, but limit is 2"},
		{corev1.LimitRangeItem{Type: container, Max: list("cpu", "1")}, nil, nil, "maximum cpu usage per Container is 1.  No limit is specified"},
		{corev1.LimitRangeItem{Type: container, Max: list("cpu", "1")}, nil, list("cpu", "1"), ""},
		{corev1.LimitRangeItem{Type: container, Min: list("cpu", "1")}, nil, nil, "minimum cpu usage per Container is 1.  No request is specified"},
		{corev1.LimitRangeItem{Type: container, Min: list("cpu", "1")}, list("cpu", "10m"), nil, "minimum cpu usage per Container is 1, but request is 10m"},
		{corev1.LimitRangeItem{Type: whole, Max: list("memory", "1Gi"), Min: list("memory", "1Gi")}, list("memory", "3Gi"), list("memory", "3Gi"), "maximum memory usage per Pod is 1Gi, but limit is 3Gi"},
		{corev1.LimitRangeItem{Type: whole, Min: list("cpu", "2", "memory", "2Gi")}, list("cpu", "1", "memory", "1Gi"), nil,
			"[minimum cpu usage per Pod is 2, but request is 1, minimum memory usage per Pod is 2Gi, but request is 1Gi]"},
		{corev1.LimitRangeItem{Type: container, MaxLimitRequestRatio: list("cpu", "1500m")}, list("cpu", "1"), list("cpu", "2"), "cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000"},
		{corev1.LimitRangeItem{Type: container, MaxLimitRequestRatio: list("cpu", "2")}, list("cpu", "1"), list("cpu", "2"), ""},
		{corev1.LimitRangeItem{Type: container, MaxLimitRequestRatio: list("cpu", "2")}, nil, list("cpu", "2"), "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"},
	} {
		got := ""
		if err := CheckPod(ranged(x.item), pod(x.requests, x.limits)); err != nil {
			got = err.Error()
		}
		if got != x.want {
			t.Errorf("got  %s\nwant %s", got, x.want)
		}
	}
}

func TestClaims(t *testing.T) {
	claim := func(size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: list("storage", size)}}}
	}
	r := ranged(corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: list("storage", "1Gi"), Max: list("storage", "2Gi")})
	for _, x := range []struct{ size, old, want string }{
		{"1Gi", "", ""}, {"3Gi", "3Gi", ""},
		{"3Gi", "", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"},
		{"3Gi", "1Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"},
		{"1Mi", "", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"},
	} {
		var old *corev1.PersistentVolumeClaim
		if x.old != "" {
			old = claim(x.old)
		}
		got := ""
		if err := CheckClaim(r, claim(x.size), old); err != nil {
			got = err.Error()
		}
		if got != x.want {
			t.Errorf("%s after %q: %q, want %q", x.size, x.old, got, x.want)
		}
	}
}
