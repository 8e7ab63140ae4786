package admit

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"coracle/internal/quota"
	"coracle/internal/resource"
)

// world is a Cluster of given objects.
type world []runtime.Object

func (w world) Get(res resource.Resource, namespace, name string) (runtime.Object, bool) {
	for _, o := range w.List(res, namespace) {
		if o.(metav1.Object).GetName() == name {
			return o, true
		}
	}
	return nil, false
}

func (w world) Await(_ context.Context, res resource.Resource, namespace, name string) (runtime.Object, bool) {
	return w.Get(res, namespace, name)
}

func (w world) List(res resource.Resource, namespace string) []runtime.Object {
	var found []runtime.Object
	for _, o := range w {
		if resource.Of(o) == res && (namespace == "" || o.(metav1.Object).GetNamespace() == namespace) {
			found = append(found, o)
		}
	}
	return found
}

func (w world) Any(res resource.Resource, namespace string) bool {
	return len(w.List(res, namespace)) > 0
}

// Charge charges the quotas among the objects, in place.
func (w world) Charge(_ context.Context, a admission.Attributes) error {
	var quotas []*corev1.ResourceQuota
	for _, o := range w.List(resource.ResourceQuotas, a.GetNamespace()) {
		quotas = append(quotas, o.(*corev1.ResourceQuota))
	}
	var old runtime.Object
	if a.GetOperation() == admission.Update {
		old = a.GetOldObject()
	}
	next, err := quota.Charge(quotas, resource.Of(a.GetObject()), a.GetObject(), old, time.Time{})
	for i := range next {
		*quotas[i] = *next[i]
	}
	return err
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
func in(name string) metav1.ObjectMeta    { return metav1.ObjectMeta{Name: name, Namespace: "n"} }

func namespace(name string, phase corev1.NamespacePhase) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: named(name), Status: corev1.NamespaceStatus{Phase: phase}}
}

func defaultWorld(more ...runtime.Object) world {
	return append(world{namespace("n", corev1.NamespaceActive), &corev1.ServiceAccount{ObjectMeta: in("default")}}, more...)
}

// write admits a create, or an update when old is given, as an administrator.
func write(w world, obj, old runtime.Object) error {
	op := admission.Create
	if old != nil {
		op = admission.Update
	}
	m := obj.(metav1.Object)
	res := resource.Of(obj)
	a := admission.NewAttributesRecord(obj, old, res.GVK(), m.GetNamespace(), m.GetName(), res.GVR(), "", op, nil, false, &user.DefaultInfo{Name: "admin"})
	chain := New(w)
	if err := chain.Admit(context.Background(), a, nil); err != nil {
		return err
	}
	return chain.Validate(context.Background(), a, nil)
}

func pod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: in("p"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if part == "" && err != nil || part != "" && (err == nil || !strings.Contains(err.Error(), part)) {
		t.Errorf("error %v, want %q", err, part)
	}
}

func TestNamespaces(t *testing.T) {
	configMap := &corev1.ConfigMap{ObjectMeta: in("c")}
	wantError(t, write(defaultWorld(), configMap, nil), "")
	wantError(t, write(world{}, configMap, nil), `namespaces "n" not found`)
	going := world{namespace("n", corev1.NamespaceTerminating)}
	wantError(t, write(going, configMap, nil), `configmaps "c" is forbidden: unable to create new content in namespace n because it is being terminated`)
	wantError(t, write(going, configMap, configMap), "")
	remove := func(name string) error {
		res := resource.Namespaces
		return New(world{}).Admit(context.Background(), admission.NewAttributesRecord(nil, nil, res.GVK(), name, name, res.GVR(), "", admission.Delete, nil, false, nil), nil)
	}
	wantError(t, remove("kube-system"), "this namespace may not be deleted")
	wantError(t, remove("kube-node-lease"), "")
	wantError(t, remove("mine"), "")
}

func TestServiceAccount(t *testing.T) {
	no := false
	p := pod()
	wantError(t, write(defaultWorld(), p, nil), "")
	if len(p.Spec.Volumes) != 1 || len(p.Spec.Containers[0].VolumeMounts) != 1 || p.Spec.Containers[0].VolumeMounts[0].MountPath != tokenPath {
		t.Errorf("no token is mounted: %+v", p.Spec)
	}
	again := p.DeepCopy()
	wantError(t, write(defaultWorld(), again, nil), "")
	if len(again.Spec.Volumes) != 1 || len(again.Spec.Containers[0].VolumeMounts) != 1 {
		t.Error("the token is mounted twice")
	}
	p = pod()
	p.Spec.AutomountServiceAccountToken = &no
	wantError(t, write(defaultWorld(), p, nil), "")
	if len(p.Spec.Volumes) != 0 {
		t.Error("a token is mounted that was not wanted")
	}
	p = pod()
	p.Spec.ServiceAccountName = "robot"
	wantError(t, write(defaultWorld(), p, nil), `pods "p" is forbidden: error looking up service account n/robot: serviceaccount "robot" not found`)
	robot := &corev1.ServiceAccount{ObjectMeta: in("robot"), AutomountServiceAccountToken: &no, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "s"}}}
	wantError(t, write(defaultWorld(robot), p, nil), "")
	if len(p.Spec.Volumes) != 0 || len(p.Spec.ImagePullSecrets) != 1 {
		t.Errorf("the account's wishes are not heard: %+v", p.Spec)
	}
}

// TestTokenVolumesOfOneControllerAreAlike: pods of one template stay alike, pods of others and pods of
// nobody do not meet.
func TestTokenVolumesOfOneControllerAreAlike(t *testing.T) {
	yes := true
	volumeOf := func(controller types.UID) string {
		p := pod()
		if controller != "" {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: controller, Controller: &yes}}
		}
		wantError(t, write(defaultWorld(), p, nil), "")
		name := p.Spec.Volumes[0].Name
		if len(name) != len(tokenVolume)+5 {
			t.Errorf("volume %q", name)
		}
		return name
	}
	first, second, other, nobodys, nobodysToo := volumeOf("a"), volumeOf("a"), volumeOf("b"), volumeOf(""), volumeOf("")
	if first != second || first == other || nobodys == nobodysToo {
		t.Errorf("names of token volumes: %s, %s, %s; of pods without a controller: %s, %s", first, second, other, nobodys, nobodysToo)
	}
}

func TestPriority(t *testing.T) {
	never := corev1.PreemptNever
	high := &schedulingv1.PriorityClass{ObjectMeta: named("high"), Value: 100, PreemptionPolicy: &never}
	usual := &schedulingv1.PriorityClass{ObjectMeta: named("usual"), Value: 7, GlobalDefault: true}
	for _, x := range []struct {
		class string
		given *int32
		world world
		want  int32
		err   string
	}{
		{"", nil, defaultWorld(), 0, ""},
		{"", nil, defaultWorld(usual), 7, ""},
		{"high", nil, defaultWorld(high, usual), 100, ""},
		{"none", nil, defaultWorld(), 0, "no PriorityClass with name none was found"},
		{"high", new(int32), defaultWorld(high), 0, "the integer value of priority (0) must not be provided in pod spec; priority admission controller computed 100"},
	} {
		p := pod()
		p.Spec.PriorityClassName, p.Spec.Priority = x.class, x.given
		err := write(x.world, p, nil)
		wantError(t, err, x.err)
		if err == nil && *p.Spec.Priority != x.want {
			t.Errorf("class %q: priority %d, want %d", x.class, *p.Spec.Priority, x.want)
		}
	}
	p := pod()
	p.Spec.PriorityClassName = "high"
	wantError(t, write(defaultWorld(high), p, nil), "")
	if *p.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("preemption policy %s", *p.Spec.PreemptionPolicy)
	}
	update := p.DeepCopy()
	update.Spec.Priority, update.Spec.PreemptionPolicy = nil, nil
	wantError(t, write(defaultWorld(high), update, p), "")
	if update.Spec.Priority == nil || *update.Spec.Priority != 100 {
		t.Error("an update that leaves the priority out loses it")
	}
	second := &schedulingv1.PriorityClass{ObjectMeta: named("second"), GlobalDefault: true}
	wantError(t, write(defaultWorld(usual), second, nil), "PriorityClass usual is already marked as default. Only one default can exist")
}

func TestTolerations(t *testing.T) {
	p := pod()
	wantError(t, write(defaultWorld(), p, nil), "")
	if len(p.Spec.Tolerations) != 2 || *p.Spec.Tolerations[0].TolerationSeconds != 300 {
		t.Errorf("tolerations %v", p.Spec.Tolerations)
	}
	p = pod()
	p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	wantError(t, write(defaultWorld(), p, nil), "")
	if len(p.Spec.Tolerations) != 1 {
		t.Errorf("who tolerates all needs no more: %v", p.Spec.Tolerations)
	}
}

func TestStorage(t *testing.T) {
	yes := true
	class := func(name string, seconds int64, mark bool) *storagev1.StorageClass {
		c := &storagev1.StorageClass{ObjectMeta: named(name), AllowVolumeExpansion: &yes}
		c.CreationTimestamp = metav1.Unix(seconds, 0)
		if mark {
			c.Annotations = map[string]string{defaultClassMark: "true"}
		}
		return c
	}
	claim := func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{ObjectMeta: in("c")} }
	w := defaultWorld(class("old", 1, true), class("new", 2, true), class("also", 2, true), class("plain", 9, false))
	c := claim()
	wantError(t, write(w, c, nil), "")
	if c.Spec.StorageClassName == nil || *c.Spec.StorageClassName != "also" {
		t.Errorf("default class %v", c.Spec.StorageClassName)
	}
	if len(c.Finalizers) != 1 || c.Finalizers[0] != claimProtection {
		t.Errorf("finalizers %v", c.Finalizers)
	}
	empty := ""
	c = claim()
	c.Spec.StorageClassName = &empty
	wantError(t, write(w, c, nil), "")
	if *c.Spec.StorageClassName != "" {
		t.Error("no class was asked for, and one was given")
	}
	sized := func(size, class string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		c := claim()
		c.Spec.StorageClassName = &class
		c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: quantity.MustParse(size)}
		c.Status.Phase = phase
		return c
	}
	wantError(t, write(w, sized("2Gi", "plain", ""), sized("1Gi", "plain", corev1.ClaimBound)), "")
	wantError(t, write(w, sized("2Gi", "plain", ""), sized("1Gi", "plain", corev1.ClaimPending)), "Only bound persistent volume claims can be expanded")
	wantError(t, write(w, sized("2Gi", "gone", ""), sized("1Gi", "gone", corev1.ClaimBound)), "must support resize")
	v := &corev1.PersistentVolume{ObjectMeta: named("v")}
	wantError(t, write(w, v, nil), "")
	if len(v.Finalizers) != 1 || v.Finalizers[0] != volumeProtection {
		t.Errorf("finalizers %v", v.Finalizers)
	}
}

func TestNewNodeIsTainted(t *testing.T) {
	n := &corev1.Node{ObjectMeta: named("x")}
	wantError(t, write(world{}, n, nil), "")
	if len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
		t.Errorf("taints %v", n.Spec.Taints)
	}
	wantError(t, write(world{}, n, nil), "")
	if len(n.Spec.Taints) != 1 {
		t.Error("tainted twice")
	}
}

func BenchmarkPod(b *testing.B) {
	chain := New(defaultWorld())
	res := resource.Pods
	b.ReportAllocs()
	for b.Loop() {
		p := pod()
		a := admission.NewAttributesRecord(p, nil, res.GVK(), "n", "p", res.GVR(), "", admission.Create, nil, false, nil)
		if err := chain.Admit(context.Background(), a, nil); err != nil {
			b.Fatal(err)
		}
	}
}
