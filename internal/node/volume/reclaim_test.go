package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/reclaim"
	served "coracle/internal/resource"
)

// released is a volume of the local class on the node "one", with data, that its claim has left and
// that the node was told to give up.
func (f *fixture) released(name string, change ...func(*corev1.PersistentVolume)) (path string) {
	f.Helper()
	f.node()
	path = f.pv(name, func(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) {
		v.Labels = map[string]string{reclaim.By: "one"}
		v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name = c.Namespace, c.Name
		v.Spec.NodeAffinity = onHost("host-one")
		v.Status.Phase = corev1.VolumeReleased
		for _, f := range change {
			f(v)
		}
	})
	if err := os.MkdirAll(path, 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "data"), []byte("x"), 0o600); err != nil {
		f.Fatal(err)
	}
	return path
}

// node makes the Node object of the fixture's node.
func (f *fixture) node() {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: map[string]string{corev1.LabelHostname: "host-one"}}}
	if _, err := f.cluster.Get(context.Background(), served.Nodes, "", "one"); err != nil {
		f.must(node)
	}
}

func (f *fixture) drop(res served.Resource, namespace, name string) {
	f.Helper()
	if _, err := f.cluster.Delete(context.Background(), object.Ref{Resource: res, Key: object.Key{Namespace: namespace, Name: name}}, metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}); err != nil {
		f.Fatal(err)
	}
}

func onHost(name string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{name}}},
	}}}}
}

func (f *fixture) volume(name string) *corev1.PersistentVolume {
	f.Helper()
	obj, err := f.cluster.Get(context.Background(), served.PersistentVolumes, "", "pv-"+name)
	if err != nil {
		f.Fatal(err)
	}
	return obj.(*corev1.PersistentVolume)
}

// edit changes a volume as an administrator may.
func (f *fixture) edit(name string, change func(*corev1.PersistentVolume)) {
	f.Helper()
	next := f.volume(name).DeepCopy()
	change(next)
	for _, sub := range []string{"", "status"} {
		obj, err := f.cluster.Update(context.Background(), next, sub)
		if err != nil {
			f.Fatal(err)
		}
		next.ResourceVersion = obj.GetResourceVersion()
	}
}

func TestReclaim(t *testing.T) {
	f := newFixture(t)
	f.node()
	path := f.pv("old", func(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) {
		v.Labels, v.Spec.NodeAffinity = map[string]string{reclaim.By: "one"}, onHost("host-one")
		v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name = c.Namespace, c.Name
		v.Status.Phase = corev1.VolumeBound
	})
	pod := podWith("p", claimVolume("old"))
	f.mustMount(pod)
	if err := os.WriteFile(filepath.Join(path, "data"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(what, part string) {
		t.Helper()
		if err := f.m.Reclaim(context.Background(), "pv-old"); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want %q", what, err, part)
		}
		if _, err := os.Stat(filepath.Join(path, "data")); err != nil {
			t.Fatalf("%s: the data are gone: %v", what, err)
		}
		if len(f.volume("old").Finalizers) == 0 {
			t.Fatalf("%s: the finalizer is gone", what)
		}
	}
	if !f.m.Reclaims(f.volume("old")) {
		t.Error("the volume is this node's to reclaim")
	}
	refused("bound, and named by a label alone", "not Released")
	f.edit("old", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeReleased })
	refused("a volume in use", "still uses")
	if err := f.m.Release(pod.UID); err != nil {
		t.Fatal(err)
	}
	refused("its claim is there", "the claim ns/old has it")
	f.drop(served.PersistentVolumeClaims, "ns", "old")
	// A pod that this agent does not know yet, because it has just begun.
	unknown := podWith("p", claimVolume("old"))
	unknown.Spec.NodeName = "one"
	f.must(unknown)
	refused("a pod that the API knows of", "pod ns/p still uses it")
	f.drop(served.Pods, "ns", "p")
	if err := f.m.Reclaim(context.Background(), "pv-old"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the data is left: %v", err)
	}
	if got := f.volume("old"); len(got.Finalizers) != 0 || f.m.Reclaims(got) {
		t.Errorf("finalizers: %v", got.Finalizers)
	}
}

// TestReclaimRefuses: nothing that one field says removes data, and what is refused for what the
// volume itself says is refused until it changes.
func TestReclaimRefuses(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*fixture, *corev1.PersistentVolume)
		part   string
	}{
		"retain": {func(_ *fixture, v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}, "policy is Retain"},
		"bound":           {func(_ *fixture, v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeBound }, "Bound, not Released"},
		"available":       {func(_ *fixture, v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeAvailable }, "not Released"},
		"not its own":     {func(f *fixture, v *corev1.PersistentVolume) { v.Spec.HostPath.Path = f.base }, "not plainly"},
		"root":            {func(_ *fixture, v *corev1.PersistentVolume) { v.Spec.HostPath.Path = "/" }, "not plainly"},
		"relative":        {func(_ *fixture, v *corev1.PersistentVolume) { v.Spec.HostPath.Path = v.Name }, "not plainly"},
		"no path":         {func(_ *fixture, v *corev1.PersistentVolume) { v.Spec.HostPath = nil }, "not plainly"},
		"made by hand":    {func(_ *fixture, v *corev1.PersistentVolume) { v.Annotations = nil }, "not plainly"},
		"another's claim": {func(_ *fixture, v *corev1.PersistentVolume) { v.Annotations[provisionedBy] = sharedClass }, "not plainly"},
		"below another root": {func(f *fixture, v *corev1.PersistentVolume) {
			v.Spec.HostPath.Path = filepath.Join(f.base, "elsewhere", v.Name)
		}, "is not below ROOT"},
		"on another node": {func(_ *fixture, v *corev1.PersistentVolume) { v.Spec.NodeAffinity = onHost("host-two") }, "host name host-two"},
		"another is told": {func(_ *fixture, v *corev1.PersistentVolume) { v.Labels[reclaim.By] = "two" }, ErrNotAsked.Error()},
		"nobody is told":  {func(_ *fixture, v *corev1.PersistentVolume) { v.Labels = nil }, ErrNotAsked.Error()},
		"shared, outside": {func(f *fixture, v *corev1.PersistentVolume) {
			v.Annotations[provisionedBy], v.Spec.NodeAffinity = sharedClass, nil
			v.Spec.StorageClassName = "gone"
		}, "remove the directory by hand"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if err := os.MkdirAll(f.m.cfg.SharedRoot, 0o755); err != nil {
				t.Fatal(err)
			}
			var path string
			f.released("x", func(v *corev1.PersistentVolume) {
				x.change(f, v)
				path = filepath.Join(f.base, "root", "pv-x")
				if v.Spec.HostPath != nil && strings.HasSuffix(v.Spec.HostPath.Path, "elsewhere/pv-x") {
					path = v.Spec.HostPath.Path
				}
				if err := os.MkdirAll(path, 0o755); err != nil {
					t.Fatal(err)
				}
			})
			f.drop(served.PersistentVolumeClaims, "ns", "x")
			err := f.m.Reclaim(context.Background(), "pv-x")
			part := strings.ReplaceAll(x.part, "ROOT", filepath.Join(f.base, "root"))
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v, want %q", err, part)
			}
			if !Stays(err) && !errors.Is(err, ErrNotAsked) {
				t.Errorf("%v will be tried again", err)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("the data are gone: %v", err)
			}
			if len(f.volume("x").Finalizers) == 0 {
				t.Error("the finalizer is gone")
			}
		})
	}
}

// TestReclaimSharedVolumes: below the cluster's directory, through a link to it, and where the
// volume's class says.
func TestReclaimSharedVolumes(t *testing.T) {
	f := newFixture(t)
	elsewhere, link := filepath.Join(f.base, "efs"), filepath.Join(f.base, "link")
	for _, dir := range []string{f.m.cfg.SharedRoot, elsewhere} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(f.m.cfg.SharedRoot, link); err != nil {
		t.Fatal(err)
	}
	f.must(&storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "efs"}, Provisioner: reclaim.Shared, Parameters: map[string]string{reclaim.PathParameter: elsewhere},
	})
	for name, root := range map[string]string{"usual": f.m.cfg.SharedRoot, "linked": link, "efs": elsewhere} {
		path := filepath.Join(root, "pv-"+name)
		f.released(name, func(v *corev1.PersistentVolume) {
			v.Annotations[provisionedBy], v.Spec.NodeAffinity, v.Spec.HostPath.Path = sharedClass, nil, path
			v.Spec.StorageClassName = name
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
		})
		f.drop(served.PersistentVolumeClaims, "ns", name)
		if err := f.m.Reclaim(context.Background(), "pv-"+name); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: the data are left: %v", name, err)
		}
	}
}

// TestReclaimAsksTheAPI: what the claim and the pods are is asked for, and where there is no answer
// the data stay.
func TestReclaimAsksTheAPI(t *testing.T) {
	for _, res := range []served.Resource{served.PersistentVolumes, served.PersistentVolumeClaims, served.Pods, served.Nodes} {
		f := newFixture(t)
		path := f.released("x")
		f.drop(served.PersistentVolumeClaims, "ns", "x")
		f.cluster.Fail = func(verb string, ref object.Ref, _ string) error {
			if ref.Resource == res && (verb == "get" || verb == "list") {
				return errors.New("the API is away")
			}
			return nil
		}
		if err := f.m.Reclaim(context.Background(), "pv-x"); err == nil || Stays(err) {
			t.Errorf("without an answer about %s: %v", res, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("without an answer about %s the data are gone", res)
		}
	}
	// A claim of the same name is another claim; one that has ended its pods holds nothing.
	f := newFixture(t)
	path := f.released("x", func(v *corev1.PersistentVolume) { v.Spec.ClaimRef.UID = types.UID("former") })
	ended := podWith("p", claimVolume("x"))
	ended.Spec.NodeName, ended.Status.Phase = "one", corev1.PodSucceeded
	f.must(ended)
	if err := f.m.Reclaim(context.Background(), "pv-x"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the data are left: %v", err)
	}
}
