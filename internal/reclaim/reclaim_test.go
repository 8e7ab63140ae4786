package reclaim

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func kept() *corev1.PersistentVolume {
	kind := corev1.HostPathDirectoryOrCreate
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: "pvc-1", Finalizers: []string{"other", DataFinalizer}, Labels: map[string]string{By: "n1"},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": Local},
		},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data/pvc-1", Type: &kind}},
			ClaimRef:                      &corev1.ObjectReference{Namespace: "d", Name: "c", UID: "u"},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}}},
			}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased},
	}
}

func TestKeeps(t *testing.T) {
	deleting := func(pv *corev1.PersistentVolume) { now := metav1.Now(); pv.DeletionTimestamp = &now }
	phase := func(p corev1.PersistentVolumePhase) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Status.Phase = p }
	}
	at := func(path string) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Spec.HostPath.Path = path }
	}
	by := func(who string) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Annotations["pv.kubernetes.io/provisioned-by"] = who }
	}
	nowhere := func(pv *corev1.PersistentVolume) { pv.Spec.NodeAffinity = nil }
	const policy, phased, foreign = "policy", "not Released", "not plainly"
	for name, x := range map[string]struct {
		change []func(*corev1.PersistentVolume)
		want   string
	}{
		"released":           {nil, ""},
		"failed":             {[]func(*corev1.PersistentVolume){phase(corev1.VolumeFailed)}, ""},
		"bound":              {[]func(*corev1.PersistentVolume){phase(corev1.VolumeBound)}, phased},
		"available":          {[]func(*corev1.PersistentVolume){phase(corev1.VolumeAvailable)}, phased},
		"no phase":           {[]func(*corev1.PersistentVolume){phase("")}, phased},
		"deleted, available": {[]func(*corev1.PersistentVolume){deleting, phase(corev1.VolumeAvailable)}, ""},
		"deleted, bound":     {[]func(*corev1.PersistentVolume){deleting, phase(corev1.VolumeBound)}, phased},
		"retained": {[]func(*corev1.PersistentVolume){func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}}, policy},
		"deleted, retained": {[]func(*corev1.PersistentVolume){deleting, func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}}, policy},
		"shared":                   {[]func(*corev1.PersistentVolume){by(Shared), nowhere}, ""},
		"shared, on a node":        {[]func(*corev1.PersistentVolume){by(Shared)}, foreign},
		"local, on no node":        {[]func(*corev1.PersistentVolume){nowhere}, foreign},
		"made by hand":             {[]func(*corev1.PersistentVolume){func(pv *corev1.PersistentVolume) { pv.Annotations = nil }}, foreign},
		"made by another":          {[]func(*corev1.PersistentVolume){by("example.com/csi")}, foreign},
		"named after another":      {[]func(*corev1.PersistentVolume){at("/data/pvc-2")}, foreign},
		"the root":                 {[]func(*corev1.PersistentVolume){at("/")}, foreign},
		"below the root":           {[]func(*corev1.PersistentVolume){at("/pvc-1")}, foreign},
		"relative":                 {[]func(*corev1.PersistentVolume){at("data/pvc-1")}, foreign},
		"roundabout":               {[]func(*corev1.PersistentVolume){at("/data/x/../pvc-1")}, foreign},
		"any existing directory":   {[]func(*corev1.PersistentVolume){func(pv *corev1.PersistentVolume) { pv.Spec.HostPath.Type = nil }}, foreign},
		"no directory of a host's": {[]func(*corev1.PersistentVolume){func(pv *corev1.PersistentVolume) { pv.Spec.HostPath = nil }}, foreign},
	} {
		pv := kept()
		for _, change := range x.change {
			change(pv)
		}
		got := Keeps(pv)
		if (got == "") != (x.want == "") || !strings.Contains(got, x.want) {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}

// TestMetadataAloneGivesNothingUp: whatever labels, annotations and finalizers say, the data of a
// volume stay whose phase or policy does not give them up.
func TestMetadataAloneGivesNothingUp(t *testing.T) {
	text := rapid.SampledFrom([]string{"", "n1", "n2", Local, Shared, "yes", "true", DataFinalizer})
	keys := rapid.SampledFrom([]string{By, "pv.kubernetes.io/provisioned-by", "pv.kubernetes.io/bound-by-controller", "coracle.io/volume-root"})
	rapid.Check(t, func(t *rapid.T) {
		pv := kept()
		if rapid.Bool().Draw(t, "bound") {
			pv.Status.Phase = rapid.SampledFrom([]corev1.PersistentVolumePhase{"", corev1.VolumePending, corev1.VolumeAvailable, corev1.VolumeBound}).Draw(t, "phase")
		} else {
			pv.Spec.PersistentVolumeReclaimPolicy = rapid.SampledFrom([]corev1.PersistentVolumeReclaimPolicy{
				"", corev1.PersistentVolumeReclaimRetain, corev1.PersistentVolumeReclaimRecycle}).Draw(t, "policy")
		}
		pv.Labels = rapid.MapOf(keys, text).Draw(t, "labels")
		pv.Annotations = rapid.MapOf(keys, text).Draw(t, "annotations")
		pv.Finalizers = rapid.SliceOf(text).Draw(t, "finalizers")
		if Keeps(pv) == "" {
			t.Fatalf("given up: %+v", pv)
		}
	})
}

func TestHolds(t *testing.T) {
	claim := func(uid, volume string) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume}}
		c.UID = "u"
		if uid != "" {
			c.UID = "other"
		}
		return c
	}
	for name, x := range map[string]struct {
		claim *corev1.PersistentVolumeClaim
		ref   func(*corev1.PersistentVolume)
		want  bool
	}{
		"bound":                 {claim("", "pvc-1"), nil, true},
		"being bound":           {claim("", ""), nil, true},
		"gone":                  {nil, nil, false},
		"made anew":             {claim("other", ""), nil, false},
		"made anew, names it":   {claim("other", "pvc-1"), nil, false},
		"has another volume":    {claim("", "pvc-2"), nil, false},
		"reserved, not taken":   {claim("", ""), func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef.UID = "" }, false},
		"reserved, being taken": {claim("", "pvc-1"), func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef.UID = "" }, true},
		"nobody's":              {claim("", "pvc-1"), func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef = nil }, false},
	} {
		pv := kept()
		if x.ref != nil {
			x.ref(pv)
		}
		if got := Holds(x.claim, pv); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAssignment(t *testing.T) {
	pv := kept()
	if Assigned(pv) != "n1" {
		t.Errorf("assigned to %q", Assigned(pv))
	}
	done := Done(pv)
	if Assigned(done) != "" || len(done.Finalizers) != 1 || len(pv.Finalizers) != 2 {
		t.Errorf("done: %v; before: %v", done.Finalizers, pv.Finalizers)
	}
}
