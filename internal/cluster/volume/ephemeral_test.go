package volume_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/loop/looptest"
	"coracle/internal/resource"
)

func ephemeralPod(name string, volumes ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, v := range volumes {
		template := &corev1.PersistentVolumeClaimTemplate{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"of": v}, Annotations: map[string]string{"note": v}},
			Spec:       claim("", "local").Spec,
		}
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{
			Name: v, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: template}},
		})
	}
	return p
}

// TestEphemeralVolumesGetClaims: each has a claim that the pod owns; a claim that is lost is made again, one of another
// is not touched, and a pod that goes gets none.
func TestEphemeralVolumesGetClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		other := looptest.Make(c, claim("web-b", "local"))
		web := looptest.Make(c, ephemeralPod("web", "a", "b"))
		synctest.Wait()
		a := getClaim(c, "web-a")
		if a == nil || !metav1.IsControlledBy(a, web) || a.Labels["of"] != "a" || a.Annotations["note"] != "a" ||
			!*a.OwnerReferences[0].BlockOwnerDeletion || *a.Spec.StorageClassName != "local" {
			t.Fatalf("claim of volume a: %+v", a)
		}
		if b := getClaim(c, "web-b"); b.UID != other.UID || len(b.OwnerReferences) != 0 {
			t.Errorf("another's claim was taken: %+v", b)
		}
		if events := looptest.Events(c, web); !slices.ContainsFunc(events, func(e *corev1.Event) bool {
			return e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, "PVC d/web-b was not created for pod d/web")
		}) {
			t.Errorf("the pod is not told of the claim in its way: %v", events)
		}

		// What was in the way goes, and so does what the pod had.
		for _, gone := range []*corev1.PersistentVolumeClaim{other, a} {
			looptest.Remove(c, gone, "")
			synctest.Wait()
			again := getClaim(c, gone.Name)
			if again == nil || again.UID == gone.UID || !metav1.IsControlledBy(again, web) {
				t.Errorf("claim %s after it was removed: %+v", gone.Name, again)
			}
		}
	})
}

// TestEphemeralVolumesOfPodsThatEnd: what will not run needs no claim.
func TestEphemeralVolumesOfPodsThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		done := ephemeralPod("done", "a")
		done.Status.Phase = corev1.PodFailed
		looptest.Make(c, done)
		leaving := ephemeralPod("leaving", "a")
		leaving.Finalizers = []string{"x.y/z"}
		leaving = looptest.Make(c, leaving)
		synctest.Wait()
		looptest.Remove(c, leaving, "")
		synctest.Wait()
		made := getClaim(c, "leaving-a")
		looptest.Edit(c, resource.PersistentVolumeClaims, "d", made.Name, func(pvc *corev1.PersistentVolumeClaim) { pvc.Finalizers = nil })
		looptest.Remove(c, made, "")
		synctest.Wait()
		if names := looptest.Names(c, resource.PersistentVolumeClaims, "d"); len(names) != 0 {
			t.Errorf("claims %v", names)
		}
	})
}
