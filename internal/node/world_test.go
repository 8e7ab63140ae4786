package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	clientfake "coracle/internal/client/fake"
	"coracle/internal/filetree/scratch"
	"coracle/internal/node/cri"
	crifake "coracle/internal/node/cri/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// world is a cluster, a runtime and an agent between them, in a bubble of virtual time.
type world struct {
	t testing.TB
	// cluster is the store behind the server now; server is what the agent reaches.
	cluster *clientfake.Cluster
	server  *apiServer
	// identities counts the clusters there have been, began the servers.
	identities, began int
	runtime           *crifake.Runtime
	cfg               Config
	stop              context.CancelFunc
	ended             chan struct{}
	// apiAway makes every call of the API fail; failing makes the runtime's call of that name
	// fail, or "everything".
	apiAway atomic.Bool
	failing atomic.Pointer[string]
	// refuseStatus makes the API find every pod status invalid.
	refuseStatus atomic.Bool
}

func (w *world) breakable() {
	w.breakCluster()
	w.runtime.Fail = func(call string) error {
		if which := w.failing.Load(); which != nil && (*which == call || *which == "everything") {
			return errors.New("broken")
		}
		return nil
	}
}

func (w *world) breakCluster() {
	w.cluster.Fail = func(verb string, ref object.Ref, sub string) error {
		if w.refuseStatus.Load() && verb == "update" && sub == "status" && ref.Resource == resource.Pods {
			return apierrors.NewInvalid(resource.Pods.GVK().GroupKind(), ref.Name, nil)
		}
		if w.apiAway.Load() {
			return errors.New("connection refused")
		}
		return nil
	}
}

// images of the tests' containers.
var images = map[string]crifake.Program{
	"server:1":   {},
	"server:2":   {},
	"stubborn:1": {Stubborn: true},
	"crash:1":    {For: time.Second, Exit: 3},
	"job:1":      {For: 5 * time.Second},
	"oom:1":      {For: time.Second, Exit: 137, OOM: true},
	"hook:1":     {Exec: func([]string) (string, int32) { time.Sleep(3 * time.Second); return "", 0 }},
	"sick:1":     {Exec: func([]string) (string, int32) { return "feverish", 1 }},
	"dire:1":     {Stubborn: true, Exec: func([]string) (string, int32) { return "feverish", 1 }},
	"tired:1": {Stubborn: true, Exec: func([]string) (string, int32) {
		if time.Since(bubbleStart) < 15*time.Second {
			return "", 0
		}
		return "asleep", 1
	}},
	// frail:1 ends while it is being probed, and with it the probe's command.
	"frail:1": {For: 3500 * time.Millisecond, Exit: 1, Exec: func([]string) (string, int32) {
		if time.Since(bubbleStart) < 4500*time.Millisecond {
			return "", 0
		}
		time.Sleep(400 * time.Millisecond)
		return "", 137
	}},
}

// inWorld runs a test in a world whose agent has registered.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	base := scratch.Dir(t)
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, server: &apiServer{}, runtime: crifake.New(images)}
		w.swap(w.newCluster())
		w.cfg = Config{
			Name: "one", Client: w.server, RuntimeSocket: "-", Dir: base + "/agent", VolumeRoot: base + "/volumes", UsersBook: base + "/users",
			NodeIP: netip.MustParseAddr("192.0.2.1"), ClusterDNS: []string{"192.0.2.53"}, Version: "v1.37.2+coracle", Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		}
		w.breakable()
		w.start()
		defer w.halt()
		w.settle(time.Second)
		w.edit(func(n *corev1.Node) { n.Spec.PodCIDR = "10.244.0.0/24" })
		w.settle(time.Second)
		test(w)
	})
}

func (w *world) start() {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.stop, w.ended = cancel, make(chan struct{})
	cfg := w.cfg
	if err := cfg.complete(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(w.ended)
		if err := run(ctx, cfg, &cri.Client{Runtime: w.runtime, Images: w.runtime}); err != nil {
			w.t.Error(err)
		}
	}()
}

// halt ends the agent and, so that the bubble can end, what is left in the runtime.
func (w *world) halt() {
	w.stop()
	<-w.ended
	for _, c := range w.runtime.Containers() {
		w.runtime.Exit(c.ID, 137)
	}
	synctest.Wait()
}

// restart is a new agent in place of the old.
func (w *world) restart() {
	w.stop()
	<-w.ended
	w.start()
}

// settle lets virtual time pass.
func (w *world) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) edit(change func(*corev1.Node)) {
	w.t.Helper()
	n := w.node().DeepCopy()
	change(n)
	if _, err := w.cluster.Update(w.t.Context(), n, ""); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) node() *corev1.Node {
	w.t.Helper()
	obj, err := w.cluster.Get(w.t.Context(), resource.Nodes, "", "one")
	if err != nil {
		w.t.Fatal(err)
	}
	return obj.(*corev1.Node)
}

// create makes a pod bound to the node.
func (w *world) create(name string, spec corev1.PodSpec) *corev1.Pod {
	w.t.Helper()
	spec.NodeName = "one"
	if spec.RestartPolicy == "" {
		spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	if spec.TerminationGracePeriodSeconds == nil {
		grace := int64(30)
		spec.TerminationGracePeriodSeconds = &grace
	}
	obj, err := w.cluster.Create(w.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}}, Spec: spec,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return obj.(*corev1.Pod)
}

func (w *world) delete(name string, grace *int64) {
	w.t.Helper()
	ref := object.Ref{Resource: resource.Pods, Key: object.Key{Namespace: "default", Name: name}}
	if _, err := w.cluster.Delete(w.t.Context(), ref, metav1.DeleteOptions{GracePeriodSeconds: grace}); err != nil {
		w.t.Fatal(err)
	}
}

// pod returns a pod, nil when it does not exist.
func (w *world) pod(name string) *corev1.Pod {
	if w.apiAway.Swap(false) {
		defer w.apiAway.Store(true)
	}
	obj, err := w.cluster.Get(w.t.Context(), resource.Pods, "default", name)
	if err != nil {
		return nil
	}
	return obj.(*corev1.Pod)
}

// state sums a pod up in one line: phase, readiness and each container.
func (w *world) state(name string) string {
	p := w.pod(name)
	if p == nil {
		return "gone"
	}
	out := string(p.Status.Phase)
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			out += " ready"
		}
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			out += " " + c.Name + "="
			switch {
			case c.State.Running != nil:
				out += "running"
			case c.State.Waiting != nil:
				out += c.State.Waiting.Reason
			case c.State.Terminated != nil:
				out += fmt.Sprintf("%s(%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
			}
			if c.RestartCount > 0 {
				out += fmt.Sprintf("*%d", c.RestartCount)
			}
		}
	}
	return out
}

func (w *world) want(name, state string) {
	w.t.Helper()
	if got := w.state(name); got != state {
		w.t.Errorf("after %s: pod %s is %q, want %q", w.clock(), name, got, state)
	}
}

var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) clock() time.Duration { return time.Since(bubbleStart) }

// events lists reasons and messages of a pod's events, in the order they were first made.
func (w *world) events(name string) string {
	items, _, err := w.cluster.List(w.t.Context(), resource.Events, clientList("default"))
	if err != nil {
		w.t.Fatal(err)
	}
	var lines []string
	for _, obj := range items {
		ev := obj.(*corev1.Event)
		if ev.InvolvedObject.Name == name {
			lines = append(lines, fmt.Sprintf("%s: %s", ev.Reason, ev.Message))
		}
	}
	return strings.Join(lines, "\n")
}

func one(image string) corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image, TerminationMessagePath: "/dev/termination-log"}}}
}
