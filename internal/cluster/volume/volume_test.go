package volume_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/volume"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

const selectedNode = "volume.kubernetes.io/selected-node"

func run(t *testing.T, f *fake.Cluster) *looptest.Cluster {
	c := looptest.Run(t, f, volume.Controllers(volume.Config{SharedRoot: "/data/shared"})...)
	for _, class := range classes() {
		looptest.Make(c, class)
	}
	for _, name := range []string{"n1", "n2"} {
		looptest.Make(c, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Labels: map[string]string{corev1.LabelHostname: name},
				Annotations: map[string]string{volume.RootAnnotation: "/data/" + name},
			},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		})
	}
	return c
}

func claim(name, class string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	if len(modes) == 0 {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes,
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: apires.MustParse("1Gi")}},
		},
	}
	if class != "<none>" {
		c.Spec.StorageClassName = &class
	}
	return c
}

func pv(name, class, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, Capacity: corev1.ResourceList{corev1.ResourceStorage: apires.MustParse(size)},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt/" + name}},
		},
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func getClaim(c *looptest.Cluster, name string) *corev1.PersistentVolumeClaim {
	return looptest.Find[*corev1.PersistentVolumeClaim](c, resource.PersistentVolumeClaims, "d", name)
}

func getPV(c *looptest.Cluster, name string) *corev1.PersistentVolume {
	return looptest.Find[*corev1.PersistentVolume](c, resource.PersistentVolumes, "", name)
}

func sel(c *looptest.Cluster, name, node string) {
	looptest.Edit(c, resource.PersistentVolumeClaims, "d", name, func(p *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, selectedNode, node)
	})
}

func told(c *looptest.Cluster, o object.Object, reason, part string) bool {
	return slices.ContainsFunc(looptest.Events(c, o), func(e *corev1.Event) bool {
		return e.Reason == reason && strings.Contains(e.Message, part)
	})
}

// agent removes a volume's data as a node's agent does: it takes the finalizer off.
func agent(c *looptest.Cluster, name, node string) {
	looptest.Edit(c, resource.PersistentVolumes, "", name, func(v *corev1.PersistentVolume) {
		if v.Labels[reclaim.By] != node {
			panic("asked " + v.Labels[reclaim.By] + ", not " + node)
		}
		v.Finalizers = slices.DeleteFunc(v.Finalizers, func(f string) bool { return f == reclaim.DataFinalizer })
	})
}

// TestLocalVolumeLife follows a local volume from its claim to its removal.
func TestLocalVolumeLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		looptest.Make(c, claim("data", "<none>"))
		looptest.Rest()
		pvc := getClaim(c, "data")
		if pvc.Spec.StorageClassName == nil || *pvc.Spec.StorageClassName != "local" {
			t.Fatalf("class %v, want the default", pvc.Spec.StorageClassName)
		}
		if pvc.Status.Phase != corev1.ClaimPending || !told(c, pvc, "WaitForFirstConsumer", "waiting for first consumer to be created before binding") {
			t.Errorf("phase %s, events %v", pvc.Status.Phase, looptest.Reasons(c, pvc))
		}
		looptest.Make(c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "first"}, Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
		}})
		looptest.Rest()
		if why := c.Loop.Why(resource.PersistentVolumeClaims, object.KeyOf(pvc)); len(why) == 0 || why[0].Why.Waits[0].On.Name != "first" {
			t.Errorf("why: %+v", why)
		}
		looptest.Remove(c, looptest.Find[*corev1.Pod](c, resource.Pods, "d", "first"), "")
		sel(c, "data", "n2")
		looptest.Rest()
		pvc = getClaim(c, "data")
		name := "pvc-" + string(pvc.UID)
		v := getPV(c, name)
		if v == nil || pvc.Status.Phase != corev1.ClaimBound || pvc.Spec.VolumeName != name || v.Status.Phase != corev1.VolumeBound {
			t.Fatalf("claim %+v\nvolume %+v", pvc, v)
		}
		if v.Spec.HostPath.Path != "/data/n2/"+name || *v.Spec.HostPath.Type != corev1.HostPathDirectoryOrCreate ||
			v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] != "n2" {
			t.Errorf("volume %+v", v.Spec)
		}
		for _, o := range []map[string]string{pvc.Annotations, v.Annotations} {
			if o["pv.kubernetes.io/bound-by-controller"] != "yes" {
				t.Errorf("annotations %v", o)
			}
		}
		if pvc.Annotations["pv.kubernetes.io/bind-completed"] != "yes" || v.Annotations["pv.kubernetes.io/provisioned-by"] != volume.Local {
			t.Errorf("annotations %v %v", pvc.Annotations, v.Annotations)
		}
		if !told(c, pvc, "ProvisioningSucceeded", "Successfully provisioned volume "+name+" using coracle.io/local") {
			t.Errorf("events %v", looptest.Reasons(c, pvc))
		}
		looptest.Settle(c)
		writes := c.Revision()
		time.Sleep(time.Hour)
		looptest.Rest()
		if c.Revision() != writes {
			t.Errorf("%d writes at rest", c.Revision()-writes)
		}

		looptest.Edit(c, resource.PersistentVolumeClaims, "d", "data", func(p *corev1.PersistentVolumeClaim) {
			p.Spec.Resources.Requests[corev1.ResourceStorage] = apires.MustParse("3Gi")
		})
		looptest.Rest()
		if got, size := getClaim(c, "data").Status.Capacity.Storage().String(), getPV(c, name).Spec.Capacity.Storage().String(); got != "3Gi" || size != "3Gi" {
			t.Errorf("after growth: claim %s, volume %s", got, size)
		}

		looptest.Make(c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "user"}, Spec: corev1.PodSpec{
			NodeName: "n2",
			Volumes:  []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
		}})
		looptest.Remove(c, pvc, "")
		looptest.Rest()
		if getClaim(c, "data") == nil {
			t.Fatal("the claim went while a pod used it")
		}
		pod := looptest.Find[*corev1.Pod](c, resource.Pods, "d", "user")
		zero := int64(0)
		if _, err := c.Delete(t.Context(), object.RefOf(pod), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Fatal(err)
		}
		looptest.Rest()
		if getClaim(c, "data") != nil {
			t.Fatal("the claim stays though nothing uses it")
		}
		if v := getPV(c, name); v.Status.Phase != corev1.VolumeReleased || v.DeletionTimestamp != nil {
			t.Fatalf("volume %+v", v)
		}
		agent(c, name, "n2")
		looptest.Rest()
		if getPV(c, name) != nil {
			t.Error("the volume stays though its data are gone")
		}
	})
}

func TestSharedVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		looptest.Make(c, &storagev1.StorageClass{
			ObjectMeta: metav1.ObjectMeta{Name: "efs"}, Provisioner: volume.Shared, Parameters: map[string]string{"path": "/mnt/efs"},
		})
		looptest.Make(c, claim("mine", "efs", corev1.ReadWriteMany))
		looptest.Make(c, claim("ours", "shared", corev1.ReadWriteMany))
		looptest.Rest()
		for name, root := range map[string]string{"mine": "/mnt/efs/", "ours": "/data/shared/"} {
			pvc := getClaim(c, name)
			if pvc.Status.Phase != corev1.ClaimBound {
				t.Fatalf("%s is %s", name, pvc.Status.Phase)
			}
			v := getPV(c, pvc.Spec.VolumeName)
			if v.Spec.HostPath.Path != root+v.Name || v.Spec.NodeAffinity != nil || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
				t.Errorf("volume %+v", v.Spec)
			}
		}
		// The node asked to remove the data falls ill: another one is asked.
		v := getPV(c, getClaim(c, "mine").Spec.VolumeName)
		looptest.Remove(c, getClaim(c, "mine"), "")
		looptest.Rest()
		if got := reclaim.Assigned(getPV(c, v.Name)); got != "n1" {
			t.Fatalf("asked %q", got)
		}
		looptest.Edit(c, resource.Nodes, "", "n1", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
		looptest.Rest()
		agent(c, v.Name, "n2")
		looptest.Rest()
		if getPV(c, v.Name) != nil {
			t.Error("the volume stays")
		}
	})
}

// TestRefusals says why a claim cannot be satisfied.
func TestRefusals(t *testing.T) {
	block := claim("block", "shared")
	mode := corev1.PersistentVolumeBlock
	block.Spec.VolumeMode = &mode
	asks := claim("asks", "slow")
	asks.Spec.VolumeName = "small"
	taken := claim("taken", "slow")
	taken.Spec.VolumeName = "taken"
	copied := func(name, class string) *corev1.PersistentVolumeClaim {
		c := claim(name, class)
		c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "origin"}
		if name == "copied-asks" {
			c.Spec.VolumeName = "free"
		}
		return c
	}
	for _, tt := range []struct {
		claim           *corev1.PersistentVolumeClaim
		reason, message string
	}{
		{claim("noclass", "no-such"), "ProvisioningFailed", `storageclass.storage.k8s.io "no-such" not found`},
		{claim("empty", ""), "FailedBinding", "no persistent volumes available for this claim and no storage class is set"},
		{claim("manual", "manual"), "FailedBinding", `storage class "manual" makes none`},
		{claim("foreign", "foreign"), "ExternalProvisioning", "external provisioner 'example.com/csi'"},
		{claim("mode", "local-now", corev1.ReadWriteMany), "ProvisioningFailed",
			`failed to provision volume with StorageClass "local-now": invalid AccessModes [ReadWriteMany]: only AccessModes [ReadWriteOnce ReadWriteOncePod] are supported`},
		{block, "ProvisioningFailed", "does not support block volume provisioning"},
		{copied("copied", "shared"), "ProvisioningFailed", "claim dataSource is not supported"},
		{copied("copied-static", "slow"), "ProvisioningFailed", `storageclass.storage.k8s.io "slow" not found`},
		{copied("copied-asks", "slow"), "VolumeMismatch", `Cannot bind to requested volume "free": the claim is to begin with the data of its dataSource`},
		{claim("options", "optional"), "ProvisioningFailed", `Mount options are not supported by the provisioner but StorageClass "optional" has mount options [ro]`},
		{asks, "VolumeMismatch", `Cannot bind to requested volume "small": requested PV is too small`},
		{taken, "FailedBinding", `volume "taken" already bound to a different claim.`},
	} {
		t.Run(tt.claim.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := run(t, fake.New())
				now := storagev1.VolumeBindingImmediate
				for name, by := range map[string]string{"manual": "kubernetes.io/no-provisioner", "foreign": "example.com/csi", "local-now": volume.Local} {
					looptest.Make(c, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: by, VolumeBindingMode: &now})
				}
				looptest.Make(c, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "optional"}, Provisioner: volume.Shared,
					VolumeBindingMode: &now, MountOptions: []string{"ro"}})
				looptest.Make(c, pv("small", "slow", "1Mi"))
				if strings.HasPrefix(tt.claim.Name, "copied") {
					looptest.Make(c, pv("free", "slow", "5Gi"))
				}
				looptest.Make(c, pv("taken", "slow", "2Gi", func(v *corev1.PersistentVolume) {
					v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "d", Name: "another"}
				}))
				pvc := looptest.Make(c, tt.claim)
				looptest.Rest()
				if got := getClaim(c, pvc.Name).Status.Phase; got != corev1.ClaimPending {
					t.Errorf("phase %s", got)
				}
				if !told(c, pvc, tt.reason, tt.message) {
					for _, e := range looptest.Events(c, pvc) {
						t.Logf("%s: %s", e.Reason, e.Message)
					}
					t.Errorf("not told %s: %s", tt.reason, tt.message)
				}
				why := c.Loop.Why(resource.PersistentVolumeClaims, object.KeyOf(pvc))
				if len(why) == 0 || len(why[0].Why.Waits) != 1 || why[0].Why.Waits[0].Reason != tt.reason {
					t.Errorf("why: %+v", why)
				}
			})
		})
	}
}

// TestRefusedProvisioning: the volume cannot be made at first. The claim never claims to be bound
// before it is.
func TestRefusedProvisioning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake.New()
		var refuse atomic.Bool
		refuse.Store(true)
		f.Fail = func(verb string, ref object.Ref, _ string) error {
			if refuse.Load() && verb == "create" && ref.Resource == resource.PersistentVolumes {
				return apierrors.NewForbidden(ref.Resource.GroupResource(), ref.Name, errors.New("no more volumes"))
			}
			return nil
		}
		c := run(t, f)
		pvc := looptest.Make(c, claim("c", "shared"))
		looptest.Rest()
		if got := getClaim(c, "c"); got.Status.Phase == corev1.ClaimBound || !told(c, pvc, "ProvisioningFailed", "no more volumes") {
			t.Errorf("phase %s, events %v", got.Status.Phase, looptest.Reasons(c, pvc))
		}
		looptest.Rest()
		refuse.Store(false)
		looptest.Settle(c)
		if got := getClaim(c, "c"); got.Status.Phase != corev1.ClaimBound {
			t.Errorf("phase %s", got.Status.Phase)
		}
	})
}

// TestNodeOfDataIsGone gives the volume up when the node that held it is deleted.
func TestNodeOfDataIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		looptest.Make(c, claim("c", "local"))
		looptest.Rest()
		sel(c, "c", "n1")
		looptest.Rest()
		v := getPV(c, getClaim(c, "c").Spec.VolumeName)
		looptest.Remove(c, looptest.Find[*corev1.Node](c, resource.Nodes, "", "n1"), "")
		looptest.Remove(c, getClaim(c, "c"), "")
		looptest.Rest()
		if getPV(c, v.Name) != nil || !told(c, v, "VolumeDataAbandoned", "node n1 is gone") {
			t.Errorf("volume %+v, events %v", getPV(c, v.Name), looptest.Reasons(c, v))
		}
	})
}

// TestSelectedNodeIsGone lets the scheduler choose again.
func TestSelectedNodeIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		looptest.Make(c, claim("c", "local"))
		looptest.Rest()
		sel(c, "c", "n3")
		looptest.Rest()
		if got := getClaim(c, "c").Annotations[selectedNode]; got != "" {
			t.Errorf("still selected: %s", got)
		}
		sel(c, "c", "n1")
		looptest.Rest()
		if got := getClaim(c, "c").Status.Phase; got != corev1.ClaimBound {
			t.Errorf("phase %s", got)
		}
	})
}

// BenchmarkClaims binds 100 claims of the shared class.
func BenchmarkClaims(b *testing.B) {
	c := looptest.Run(b, fake.New(), volume.Controllers(volume.Config{SharedRoot: "/data/shared"})...)
	for _, class := range classes() {
		looptest.Make(c, class)
	}
	bound := make(chan struct{}, 100)
	c.View.Subscribe(subscriber(bound))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		for j := range 100 {
			looptest.Make(c, claim(fmt.Sprintf("c-%d-%d", i, j), "shared"))
		}
		for range 100 {
			<-bound
		}
	}
}
