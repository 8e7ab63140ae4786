package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/klog/v2"

	"coracle/internal/apiserver"
	"coracle/internal/client"
	"coracle/internal/cluster"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/pki"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scheduler"
	"coracle/internal/store"
	"coracle/internal/view"
	"coracle/internal/workload"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// whole is a server that nobody outside can reach: the real API, every controller and the scheduler, and
// nodes that run pods by saying so.
type whole struct {
	client.Interface
	view  *view.View
	loop  *loop.Loop
	log   *lockedBuffer
	t     testing.TB
	moved chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func start(t testing.TB, nodes int) *whole {
	t.Helper()
	st, err := store.Open(store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.Ensure(t.TempDir(), []string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	api, err := apiserver.New(apiserver.Config{
		Advertise: netip.MustParseAddrPort("192.0.2.1:6443"),
		Store:     st, PKI: authority, ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &whole{Interface: api.Client(), view: view.New(), log: &lockedBuffer{}, t: t, moved: make(chan struct{}, 1)}
	controllers := append(cluster.Controllers(cluster.Config{
		RootCA: string(authority.CACert()), PodRange: netip.MustParsePrefix("10.244.0.0/16"), SharedVolumes: "/shared",
	}), workload.Controllers()...)
	w.loop = loop.New(w, w.view, controllers, loop.Options{Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	place := scheduler.New(w, w.view, func(e plan.Event) { w.loop.Tell("default-scheduler", e) })
	w.view.Subscribe(func(view.Change) {
		select {
		case w.moved <- struct{}{}:
		default:
		}
	})
	kubelet := newNodes(w)
	f := view.Follow(ctx, w, w.view, resource.All()...)
	var parts sync.WaitGroup
	parts.Go(func() { w.loop.Run(ctx, f.Synced()) })
	parts.Go(func() {
		<-f.Synced()
		place.Run(ctx)
	})
	parts.Go(func() { kubelet.run(ctx) })
	t.Cleanup(func() {
		cancel()
		parts.Wait()
		<-f.Done()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range nodes {
		w.make(node(fmt.Sprintf("n%03d", i)))
	}
	return w
}

func node(name string) *corev1.Node {
	now := metav1.Now()
	room := corev1.ResourceList{"cpu": apires.MustParse("64"), "memory": apires.MustParse("256Gi"), "pods": apires.MustParse("1000")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{corev1.LabelHostname: name},
			Annotations: map[string]string{"coracle.io/volume-root": "/volumes"},
		},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}},
		},
	}
}

func (w *whole) make(o object.Object) object.Object {
	w.t.Helper()
	out, err := w.Create(context.Background(), o)
	if err != nil {
		w.t.Fatalf("create %s: %v", object.KeyOf(o), err)
	}
	return out
}

// until waits for the snapshot to satisfy a condition.
func (w *whole) until(what string, holds func() bool) {
	w.t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	look := time.NewTicker(10 * time.Millisecond) // the loop comes to rest after the last change
	defer look.Stop()
	for !holds() {
		select {
		case <-w.moved:
		case <-look.C:
		case <-limit.C:
			w.t.Fatalf("not within 30 s: %s\nlog:\n%s", what, w.log)
		}
	}
}

func (w *whole) count(res resource.Resource, ns string, match func(object.Object) bool) int {
	n := 0
	for _, o := range w.view.List(res, ns) {
		if match == nil || match(o) {
			n++
		}
	}
	return n
}

func podReady(o object.Object) bool {
	for _, c := range o.(*corev1.Pod).Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return o.GetDeletionTimestamp() == nil
		}
	}
	return false
}

// sound checks what must hold of a cluster at rest.
func (w *whole) sound() {
	w.t.Helper()
	if n := w.loop.Counters.Panics.Load(); n > 0 {
		w.t.Errorf("%d panics", n)
	}
	if s := w.log.String(); strings.Contains(s, "level=ERROR") || strings.Contains(s, "action failed") {
		w.t.Errorf("log:\n%s", s)
	}
}

func template(app string) corev1.PodTemplateSpec {
	zero := int64(0)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &zero,
			Containers:                    []corev1.Container{{Name: "c", Image: "counter:1.1", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}}}},
		},
	}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func in(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

func deploymentOf(ns string, replicas int32) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: in(ns, "web"), Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector("web"), Template: template("web")}}
}

// TestWholeCluster runs the controllers together on the real API: workloads with their claims,
// services and budgets come up, and leave nothing behind when their namespace goes.
func TestWholeCluster(t *testing.T) {
	w := start(t, 3)
	const ns = "shop"
	w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	w.until("the default account", func() bool {
		_, ok := w.view.Get(resource.ServiceAccounts, ns, "default")
		return ok
	})
	w.make(&corev1.Service{ObjectMeta: in(ns, "web"), Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("web")}},
	}})
	w.make(&policyv1.PodDisruptionBudget{ObjectMeta: in(ns, "web"), Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: selector("web"), MaxUnavailable: new(intstr.FromInt32(2)),
	}})
	w.make(deploymentOf(ns, 10))
	claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": apires.MustParse("1Gi")}},
	}}
	db := template("db")
	db.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	w.make(&appsv1.StatefulSet{ObjectMeta: in(ns, "db"), Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(3)), ServiceName: "db", Selector: selector("db"), Template: db,
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{claim},
	}})
	w.make(&appsv1.DaemonSet{ObjectMeta: in(ns, "log"), Spec: appsv1.DaemonSetSpec{Selector: selector("log"), Template: template("log")}})
	w.until("16 pods ready", func() bool { return w.count(resource.Pods, ns, podReady) == 16 })
	w.until("three claims bound", func() bool {
		return w.count(resource.PersistentVolumeClaims, ns, func(o object.Object) bool {
			return o.(*corev1.PersistentVolumeClaim).Status.Phase == corev1.ClaimBound
		}) == 3
	})
	w.until("ten endpoints", func() bool {
		o, ok := w.view.Get(resource.Endpoints, ns, "web")
		if !ok {
			return false
		}
		subsets := o.(*corev1.Endpoints).Subsets //nolint:staticcheck // its test
		return len(subsets) == 1 && len(subsets[0].Addresses) == 10
	})
	w.until("two disruptions allowed", func() bool {
		o, ok := w.view.Get(resource.PodDisruptionBudgets, ns, "web")
		return ok && o.(*policyv1.PodDisruptionBudget).Status.DisruptionsAllowed == 2
	})
	for i := range 3 {
		o, ok := w.view.Get(resource.Nodes, "", fmt.Sprintf("n%03d", i))
		if !ok || o.(*corev1.Node).Spec.PodCIDR == "" {
			t.Errorf("node %d has no pod range", i)
		}
	}
	w.until("rest", w.loop.Idle)
	w.sound()

	// A foreground deletion leaves no ReplicaSet and no pod before the Deployment itself goes.
	ref := object.Ref{Resource: resource.Deployments, Key: object.Key{Namespace: ns, Name: "web"}}
	if _, err := w.Delete(t.Context(), ref, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)}); err != nil {
		t.Fatal(err)
	}
	w.until("the Deployment gone", func() bool { return w.count(resource.Deployments, ns, nil) == 0 })
	if left := w.count(resource.ReplicaSets, ns, nil); left > 0 {
		t.Errorf("%d ReplicaSets outlive their owner's foreground deletion", left)
	}
	began := time.Now()
	if _, err := w.Delete(t.Context(), object.Ref{Resource: resource.Namespaces, Key: object.Key{Name: ns}}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("the namespace gone", func() bool {
		_, ok := w.view.Get(resource.Namespaces, "", ns)
		return !ok
	})
	t.Logf("namespace gone after %s", time.Since(began))
	for _, res := range resource.All() {
		for _, o := range w.view.List(res, ns) {
			if res.Namespaced {
				t.Errorf("left behind: %s %+v", res, o)
			}
		}
	}
	w.until("the volumes gone", func() bool { return w.count(resource.PersistentVolumes, "", nil) == 0 })
	w.sound()
}

// BenchmarkNamespace is a namespace, empty but for what every one has, from its deletion to its end.
func BenchmarkNamespace(b *testing.B) {
	w := start(b, 0)
	b.ResetTimer()
	for i := range b.N {
		name := fmt.Sprintf("ns-%d", i)
		b.StopTimer()
		w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		w.until("furniture", func() bool {
			return w.count(resource.ServiceAccounts, name, nil) == 1 && w.count(resource.ConfigMaps, name, nil) == 1
		})
		b.StartTimer()
		if _, err := w.Delete(context.Background(), object.Ref{Resource: resource.Namespaces, Key: object.Key{Name: name}}, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		w.until("gone", func() bool {
			_, ok := w.view.Get(resource.Namespaces, "", name)
			return !ok
		})
	}
}

// BenchmarkDeployment1000 is a Deployment of 1,000 on 100 nodes from its creation to all pods
// ready, with the real API, a durable store and the scheduler.
func BenchmarkDeployment1000(b *testing.B) {
	w := start(b, 100)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		ns := fmt.Sprintf("b-%d", i)
		w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		w.until("account", func() bool { return w.count(resource.ServiceAccounts, ns, nil) == 1 })
		w.make(deploymentOf(ns, 1000))
		w.until("1,000 ready", func() bool {
			o, ok := w.view.Get(resource.Deployments, ns, "web")
			return ok && o.(*appsv1.Deployment).Status.ReadyReplicas == 1000
		})
		b.StopTimer()
		if _, err := w.Delete(context.Background(), object.Ref{Resource: resource.Namespaces, Key: object.Key{Name: ns}}, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		w.until("gone", func() bool {
			_, ok := w.view.Get(resource.Namespaces, "", ns)
			return !ok
		})
		b.StartTimer()
	}
}
