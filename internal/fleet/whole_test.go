package fleet_test

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"coracle/internal/apiserver"
	"coracle/internal/client"
	"coracle/internal/cluster"
	"coracle/internal/fleet"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/pki"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scheduler"
	"coracle/internal/simnode"
	"coracle/internal/store"
	"coracle/internal/view"
	"coracle/internal/workload/daemonset"
	"coracle/internal/workload/deployment"
	"coracle/internal/workload/replicaset"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// server is all of a server but its socket: the API on a durable store, controllers, scheduler
// and fleet.
type server struct {
	client.Interface
	t     *testing.T
	view  *view.View
	moved chan struct{}
	stop  func()
}

// serve starts a server on a directory; what is in it already it goes on with.
func serve(t *testing.T, dir string, authority *pki.Authority) *server {
	t.Helper()
	st, err := store.Open(store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	api, err := apiserver.New(apiserver.Config{
		Advertise: netip.MustParseAddrPort("192.0.2.1:6443"), Store: st, PKI: authority,
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"), Log: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Interface: api.Client(), t: t, view: view.New(), moved: make(chan struct{}, 1)}
	decide := loop.New(s, s.view, append(cluster.Controllers(cluster.Config{
		RootCA: string(authority.CACert()), PodRange: netip.MustParsePrefix("10.244.0.0/16"), SharedVolumes: "/shared",
	}), replicaset.Controller(), deployment.Controller(), daemonset.Controller()), loop.Options{Log: quiet})
	place := scheduler.New(s, s.view, func(e plan.Event) { decide.Tell("default-scheduler", e) })
	simulate := fleet.New(s, s.view, func(e plan.Event) { decide.Tell(fleet.Name, e) }, fleet.Options{Version: "v1.37.0", Log: quiet})
	s.view.Subscribe(func(view.Change) {
		select {
		case s.moved <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	f := view.Follow(ctx, s, s.view, resource.All()...)
	var parts sync.WaitGroup
	for _, run := range []func(context.Context){place.Run, simulate.Run, func(ctx context.Context) { decide.Run(ctx, f.Synced()) }} {
		parts.Go(func() {
			<-f.Synced()
			run(ctx)
		})
	}
	s.stop = sync.OnceFunc(func() {
		cancel()
		parts.Wait()
		<-f.Done()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) until(what string, holds func() bool) {
	s.t.Helper()
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	for !holds() {
		select {
		case <-s.moved:
		case <-limit.C:
			s.t.Fatalf("not within a minute: %s", what)
		}
	}
}

func (s *server) ready(app string) (n int) {
	for _, o := range s.view.List(resource.Pods, "default") {
		if p := o.(*corev1.Pod); p.Labels["app"] == app && p.DeletionTimestamp == nil && shows(p) == "Running Ready" {
			n++
		}
	}
	return n
}

func (s *server) make(o object.Object) {
	s.t.Helper()
	if _, err := s.Create(s.t.Context(), o); err != nil {
		s.t.Fatalf("create %s: %v", object.KeyOf(o), err)
	}
}

func template(app string, annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}, Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nowhere.example/none:1"}}},
	}
}

// TestThroughTheAPI: 50 simulated nodes on the real API take a Deployment's and a DaemonSet's pods,
// lose a node, lose the server in the middle of a start, and go on.
func TestThroughTheAPI(t *testing.T) {
	dir := t.TempDir()
	authority, err := pki.Ensure(t.TempDir(), []string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, authority)
	const nodes, replicas = 50, 300
	for i := range nodes {
		s.make(simnode.NewNode(nodeName(i), ""))
	}
	readyNodes := func() (n int) {
		for _, o := range s.view.List(resource.Nodes, "") {
			for _, c := range o.(*corev1.Node).Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					n++
				}
			}
		}
		return n
	}
	s.until("nodes ready", func() bool { return readyNodes() == nodes })
	s.until("an account", func() bool {
		_, ok := s.view.Get(resource.ServiceAccounts, "default", "default")
		return ok
	})
	many := int32(replicas)
	selector := func(app string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	}
	s.make(&appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: &many, Selector: selector("web"), Template: template("web", nil)},
	})
	s.make(&appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent"},
		Spec:       appsv1.DaemonSetSpec{Selector: selector("agent"), Template: template("agent", map[string]string{simnode.StartAfter: "0s-300ms"})},
	})
	s.until("pods ready", func() bool { return s.ready("web") == replicas && s.ready("agent") == nodes })
	addresses := map[string]string{}
	for _, o := range s.view.List(resource.Pods, "default") {
		p := o.(*corev1.Pod)
		if other := addresses[p.Status.PodIP]; other != "" || p.Status.PodIP == "" {
			t.Errorf("%s has the address %q, as has %s", p.Name, p.Status.PodIP, other)
		}
		addresses[p.Status.PodIP] = p.Name
	}

	if _, err := s.Delete(t.Context(), object.Ref{Resource: resource.Nodes, Key: object.Key{Name: nodeName(0)}}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until("the lost node's pods elsewhere", func() bool { return s.ready("web") == replicas && s.ready("agent") == nodes-1 })

	s.make(&appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "slow"},
		Spec:       appsv1.DeploymentSpec{Replicas: &many, Selector: selector("slow"), Template: template("slow", map[string]string{simnode.ReadyAfter: "1s-4s"})},
	})
	s.until("some of the slow ones ready", func() bool { return s.ready("slow") > 0 })
	uids := map[string]bool{}
	for _, o := range s.view.List(resource.Pods, "default") {
		uids[string(o.GetUID())] = true
	}
	s.stop()
	s = serve(t, dir, authority)
	s.until("all of the slow ones ready", func() bool { return s.ready("slow") == replicas && s.ready("web") == replicas })
	for _, o := range s.view.List(resource.Pods, "default") {
		p := o.(*corev1.Pod)
		for _, c := range p.Status.ContainerStatuses {
			if c.RestartCount > 0 {
				t.Errorf("%s was restarted", p.Name)
			}
		}
		delete(uids, string(o.GetUID()))
	}
	if len(uids) > 0 {
		t.Errorf("%d pods were lost with the server", len(uids))
	}
	if got := readyNodes(); got != nodes-1 {
		t.Errorf("%d nodes are ready", got)
	}
}

func nodeName(i int) string { return "sim-" + string(rune('a'+i/26)) + string(rune('a'+i%26)) }
