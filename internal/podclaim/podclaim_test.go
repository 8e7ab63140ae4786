package podclaim_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/podclaim"
)

func TestClaims(t *testing.T) {
	pod := &corev1.Pod{}
	pod.Name = "web"
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
	}
	if got, want := podclaim.All(pod), []string{"disk", "web-scratch"}; !slices.Equal(got, want) {
		t.Errorf("claims %q, want %q", got, want)
	}
	for claim, want := range map[string]bool{"disk": true, "web-scratch": true, "web-tmp": false, "data": false, "scratch": false, "": false} {
		if got := podclaim.Uses(pod, claim); got != want {
			t.Errorf("uses %q: %v, want %v", claim, got, want)
		}
	}
}
