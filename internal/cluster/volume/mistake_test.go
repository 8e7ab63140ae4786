package volume_test

import (
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client/fake"
	"coracle/internal/loop/looptest"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// TestMistakesInMetadataLoseNothing: an administrator changes labels and annotations of a bound volume.
// Its claim keeps it, and no node is asked for anything but by the mistake itself.
func TestMistakesInMetadataLoseNothing(t *testing.T) {
	const maker = "pv.kubernetes.io/provisioned-by"
	for name, change := range map[string]func(*corev1.PersistentVolume){
		"told to reclaim":        func(v *corev1.PersistentVolume) { v.Labels = map[string]string{reclaim.By: "n2"} },
		"told in the former way": func(v *corev1.PersistentVolume) { v.Annotations["coracle.io/reclaim-by"] = "n2" },
		"made by the other":      func(v *corev1.PersistentVolume) { v.Annotations[maker] = reclaim.Shared },
		"made by nobody":         func(v *corev1.PersistentVolume) { v.Annotations = nil },
		"all at once": func(v *corev1.PersistentVolume) {
			v.Labels, v.Annotations = map[string]string{reclaim.By: "n1"}, map[string]string{maker: reclaim.Shared}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := run(t, fake.New())
				looptest.Make(c, claim("c", "local"))
				looptest.Rest()
				sel(c, "c", "n1")
				looptest.Rest()
				pv := getClaim(c, "c").Spec.VolumeName
				looptest.Edit(c, resource.PersistentVolumes, "", pv, change)
				looptest.Settle(c)
				v := getPV(c, pv)
				if v == nil || v.Status.Phase != corev1.VolumeBound || v.DeletionTimestamp != nil || !slices.Contains(v.Finalizers, reclaim.DataFinalizer) {
					t.Fatalf("volume %+v", v)
				}
				if reclaim.Keeps(v) == "" || !reclaim.Holds(getClaim(c, "c"), v) {
					t.Error("a node would remove its data")
				}
			})
		})
	}
}

// TestMistakenMakerKeepsData: once the claim is gone, a volume whose annotation and source disagree
// is let go without its directory being touched.
func TestMistakenMakerKeepsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		looptest.Make(c, claim("c", "local"))
		looptest.Rest()
		sel(c, "c", "n1")
		looptest.Rest()
		pv := getClaim(c, "c").Spec.VolumeName
		looptest.Edit(c, resource.PersistentVolumes, "", pv, func(v *corev1.PersistentVolume) {
			v.Annotations["pv.kubernetes.io/provisioned-by"] = reclaim.Shared
		})
		asked := false
		c.View.Subscribe(watchAssignments(&asked))
		v := getPV(c, pv)
		looptest.Remove(c, getClaim(c, "c"), "")
		looptest.Settle(c)
		if !told(c, v, "VolumeDataAbandoned", "the directory /data/n1/"+pv+" is left to the administrator") {
			t.Errorf("events %v", looptest.Reasons(c, v))
		}
		if asked {
			t.Error("a node was asked to remove the data")
		}
	})
}

func watchAssignments(asked *bool) func(view.Change) {
	return func(ch view.Change) {
		if v, ok := ch.After.(*corev1.PersistentVolume); ok && reclaim.Assigned(v) != "" {
			*asked = true
		}
	}
}

// TestBorrowedHostName: a node that calls itself by another's name gets no volumes that the other would
// have to keep.
func TestBorrowedHostName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		looptest.Edit(c, resource.Nodes, "", "n1", func(n *corev1.Node) { n.Labels[corev1.LabelHostname] = "n2" })
		pvc := looptest.Make(c, claim("c", "local"))
		looptest.Rest()
		sel(c, "c", "n1")
		looptest.Rest()
		if got := getClaim(c, "c"); got.Status.Phase != corev1.ClaimPending || !told(c, pvc, "ProvisioningFailed", `is the name of another node, "n2"`) {
			t.Errorf("claim %+v, events %v", got.Status, looptest.Reasons(c, pvc))
		}
	})
}
