package volume_test

import (
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client/fake"
	"coracle/internal/loop/looptest"
	"coracle/internal/resource"
)

func TestStaticVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		looptest.Make(c, pv("big", "slow", "10Gi"))
		looptest.Make(c, pv("fit", "slow", "2Gi"))
		looptest.Make(c, pv("many", "slow", "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
		}))
		looptest.Make(c, pv("reserved", "slow", "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "d", Name: "late"}
		}))
		looptest.Rest()
		looptest.Make(c, claim("first", "slow"))
		looptest.Rest()
		looptest.Make(c, claim("second", "slow"))
		looptest.Make(c, claim("late", "slow"))
		looptest.Rest()
		for name, want := range map[string]string{"first": "fit", "second": "big", "late": "reserved"} {
			if got := getClaim(c, name); got.Spec.VolumeName != want || got.Status.Phase != corev1.ClaimBound {
				t.Errorf("%s has %q (%s), want %q", name, got.Spec.VolumeName, got.Status.Phase, want)
			}
		}
		third := looptest.Make(c, claim("third", "slow"))
		looptest.Rest()
		if !told(c, third, "ProvisioningFailed", "not found") {
			t.Errorf("events %v", looptest.Reasons(c, third))
		}
		// Retain: the data wait for a person, who lets them be claimed anew.
		looptest.Remove(c, getClaim(c, "first"), "")
		looptest.Rest()
		if got := getPV(c, "fit"); got.Status.Phase != corev1.VolumeReleased || getClaim(c, "third").Status.Phase != corev1.ClaimPending {
			t.Fatalf("phase %s", got.Status.Phase)
		}
		looptest.Edit(c, resource.PersistentVolumes, "", "fit", func(v *corev1.PersistentVolume) { v.Spec.ClaimRef = nil })
		looptest.Rest()
		if got := getClaim(c, "third"); got.Spec.VolumeName != "fit" || got.Status.Phase != corev1.ClaimBound {
			t.Errorf("third has %q (%s)", got.Spec.VolumeName, got.Status.Phase)
		}
		// A bound volume is protected from deletion until its claim goes.
		looptest.Remove(c, getPV(c, "big"), "")
		looptest.Rest()
		if getPV(c, "big") == nil {
			t.Fatal("a bound volume went")
		}
		looptest.Remove(c, getClaim(c, "second"), "")
		looptest.Rest()
		if getPV(c, "big") != nil {
			t.Error("the volume stays though no claim holds it")
		}
	})
}

func TestLostVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		looptest.Make(c, pv("v", "slow", "1Gi"))
		pvc := looptest.Make(c, claim("c", "slow"))
		looptest.Rest()
		looptest.Settle(c)
		looptest.Remove(c, getPV(c, "v"), "")
		looptest.Edit(c, resource.PersistentVolumes, "", "v", func(v *corev1.PersistentVolume) { v.Finalizers = nil })
		looptest.Rest()
		if got := getClaim(c, "c"); got.Status.Phase != corev1.ClaimLost || !told(c, pvc, "ClaimLost", "Data on the volume is lost!") {
			t.Errorf("phase %s, events %v", got.Status.Phase, looptest.Reasons(c, pvc))
		}
	})
}
