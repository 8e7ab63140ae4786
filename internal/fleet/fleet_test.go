package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/nodelife"
	"coracle/internal/fleet"
	"coracle/internal/loop/looptest"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
	"coracle/internal/simnode"
)

// world is a cluster in memory with nodelife's controllers and a fleet.
type world struct {
	*looptest.Cluster
	t    *testing.T
	mu   sync.Mutex
	told []string
	stop func()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, Cluster: looptest.Run(t, fake.New(), nodelife.Controllers(nodelife.Config{})...)}
	looptest.Rest()
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start runs a fleet that knows nothing of any earlier one.
func (w *world) start() {
	ctx, cancel := context.WithCancel(context.Background())
	f := fleet.New(w.Cluster, w.View, w.tell, fleet.Options{Version: "v1", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	w.stop = func() {
		cancel()
		<-done
	}
}

func (w *world) tell(e plan.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, e.Regarding.Key.String()+" "+e.Reason+": "+e.Message)
}

func (w *world) events(reason string) (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.told {
		if strings.Contains(e, reason) {
			out = append(out, e)
		}
	}
	return out
}

func (w *world) node(name, cidr string) *corev1.Node {
	return looptest.Make(w.Cluster, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{nodestate.SimulatedAnnotation: "true"}},
		Spec:       corev1.NodeSpec{PodCIDR: cidr},
	})
}

func (w *world) pod(name, node string, annotations map[string]string) {
	looptest.Make(w.Cluster, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, Annotations: annotations},
		Spec:       corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	})
}

func (w *world) pods() (out []*corev1.Pod) {
	for _, o := range w.View.List(resource.Pods, "d") {
		out = append(out, o.(*corev1.Pod))
	}
	return out
}

func (w *world) find(name string) *corev1.Pod {
	return looptest.Find[*corev1.Pod](w.Cluster, resource.Pods, "d", name)
}

// shows is a pod's phase, and whether it is ready.
func shows(p *corev1.Pod) string {
	if p == nil {
		return "gone"
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return string(p.Status.Phase) + " Ready"
		}
	}
	return string(p.Status.Phase)
}

func (w *world) want(name, state string) {
	w.t.Helper()
	synctest.Wait()
	if got := shows(w.find(name)); got != state {
		w.t.Errorf("pod %s is %s, want %s", name, got, state)
	}
}

func (w *world) nodeReady(name string) corev1.ConditionStatus {
	synctest.Wait()
	for _, c := range looptest.Find[*corev1.Node](w.Cluster, resource.Nodes, "", name).Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func (w *world) annotate(res resource.Resource, namespace, name, key, value string) {
	w.t.Helper()
	o, err := w.Get(w.t.Context(), res, namespace, name)
	if err != nil {
		w.t.Fatal(err)
	}
	next := o.DeepCopyObject().(object.Object)
	all := next.GetAnnotations()
	if all == nil {
		all = map[string]string{}
	}
	all[key] = value
	if value == "" {
		delete(all, key)
	}
	next.SetAnnotations(all)
	if _, err := w.Update(w.t.Context(), next, ""); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) delete(name string, grace int64) {
	ref := object.Ref{Resource: resource.Pods, Key: object.Key{Namespace: "d", Name: name}}
	if _, err := w.Delete(w.t.Context(), ref, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		w.t.Fatal(err)
	}
}

// writes counts the calls that changed something.
func (w *world) writes() (n int) {
	for verb, calls := range w.Calls() {
		if verb, _, _ = strings.Cut(verb, "/"); !slices.Contains([]string{"get", "list", "watch"}, verb) {
			n += calls
		}
	}
	return n
}

// TestManyPods: each pod takes one write to be up, with an address that no other has; each
// deletion takes one; and at rest nothing is written but the one lease.
func TestManyPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const nodes, each = 5, 60
		for i := range nodes {
			w.node(fmt.Sprintf("n%d", i), fmt.Sprintf("10.0.%d.0/24", i))
		}
		looptest.Make(w.Cluster, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "real"}})
		synctest.Wait()
		before := w.Calls()["update/status"]
		for i := range nodes * each {
			w.pod(fmt.Sprintf("p%d", i), fmt.Sprintf("n%d", i%nodes), nil)
		}
		w.pod("elsewhere", "real", nil)
		synctest.Wait()
		seen := map[string]string{}
		for _, p := range w.pods() {
			if p.Spec.NodeName == "real" {
				if shows(p) != "Pending" {
					t.Errorf("the pod of another's node is %s", shows(p))
				}
				continue
			}
			node := looptest.Find[*corev1.Node](w.Cluster, resource.Nodes, "", p.Spec.NodeName)
			cidr := netip.MustParsePrefix(node.Spec.PodCIDR)
			switch addr, err := netip.ParseAddr(p.Status.PodIP); {
			case shows(p) != "Running Ready":
				t.Errorf("%s is %s", p.Name, shows(p))
			case err != nil || !cidr.Contains(addr) || addr == cidr.Addr() || p.Status.PodIP == p.Status.HostIP:
				t.Errorf("%s has the address %q in %s", p.Name, p.Status.PodIP, cidr)
			case seen[p.Status.PodIP] != "":
				t.Errorf("%s and %s share %s", p.Name, seen[p.Status.PodIP], p.Status.PodIP)
			}
			seen[p.Status.PodIP] = p.Name
		}
		if got := w.Calls()["update/status"] - before; got != nodes*each {
			t.Errorf("%d writes for %d pods", got, nodes*each)
		}
		before = w.writes()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		// The real node, which nobody keeps, is judged once: its status, its taints, its pod.
		if got := w.writes() - before; got > 60+5 {
			t.Errorf("%d writes in ten minutes at rest", got)
		}
		for i := range nodes * each {
			w.delete(fmt.Sprintf("p%d", i), 30)
		}
		synctest.Wait()
		if got := len(w.pods()); got != 1 {
			t.Errorf("%d pods are left", got)
		}
	})
}

// TestDelays are counted on by the next fleet when one ends in their middle.
func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "10.0.0.0/24")
		w.pod("p", "n", map[string]string{simnode.StartAfter: "2s", simnode.ReadyAfter: "5s", simnode.TerminateAfter: "3s"})
		w.want("p", "Pending")
		time.Sleep(1900 * time.Millisecond)
		w.want("p", "Pending")
		time.Sleep(200 * time.Millisecond)
		w.want("p", "Running")
		w.stop()
		w.start()
		time.Sleep(3800 * time.Millisecond)
		w.want("p", "Running")
		time.Sleep(1200 * time.Millisecond)
		w.want("p", "Running Ready")
		w.delete("p", 30)
		time.Sleep(2900 * time.Millisecond)
		w.want("p", "Running Ready")
		time.Sleep(200 * time.Millisecond)
		w.want("p", "gone")
	})
}

// TestSilentNode: the node is not ready after the usual 40 s, its pods neither start nor end,
// and all of it comes back with the node.
func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "10.0.0.0/24")
		w.node("other", "10.0.1.0/24")
		w.pod("p", "n", nil)
		time.Sleep(10 * time.Minute)
		w.want("p", "Running Ready")
		w.annotate(resource.Nodes, "", "n", simnode.Fault, simnode.FaultSilent)
		synctest.Wait()
		w.pod("late", "n", nil)
		time.Sleep(39 * time.Second)
		if got := w.nodeReady("n"); got != corev1.ConditionTrue {
			t.Errorf("ready is %s 39 s after its last heartbeat", got)
		}
		time.Sleep(2 * time.Second)
		if got := w.nodeReady("n"); got != corev1.ConditionUnknown {
			t.Errorf("ready is %s 41 s after its last heartbeat", got)
		}
		if got := w.nodeReady("other"); got != corev1.ConditionTrue {
			t.Errorf("the other node's ready is %s", got)
		}
		looptest.Rest()
		w.want("late", "Pending")
		if p := w.find("p"); p == nil || p.DeletionTimestamp == nil {
			t.Error("the pod, which tolerates nothing, was not evicted")
		}
		w.annotate(resource.Nodes, "", "n", simnode.Fault, "")
		time.Sleep(time.Second)
		w.want("p", "gone")
		if got := w.nodeReady("n"); got != corev1.ConditionTrue {
			t.Errorf("back, its ready is %s", got)
		}
		looptest.Rest()
		if node := looptest.Find[*corev1.Node](w.Cluster, resource.Nodes, "", "n"); len(node.Spec.Taints) > 0 {
			t.Errorf("taints of the node that is back: %v", node.Spec.Taints)
		}
		time.Sleep(10 * time.Minute)
		if got := w.nodeReady("n"); got != corev1.ConditionTrue {
			t.Errorf("later its ready is %s", got)
		}
	})
}

// TestServerAway: after an absence the fleet's own heartbeats keep its nodes, and what others
// said of them meanwhile is set right.
func TestServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "10.0.0.0/24")
		w.pod("p", "n", map[string]string{simnode.ReadyAfter: "1h"})
		synctest.Wait()
		w.stop()
		time.Sleep(10 * time.Minute)
		if got := w.nodeReady("n"); got != corev1.ConditionUnknown {
			t.Fatalf("ready is %s with nobody to keep it", got)
		}
		w.start()
		time.Sleep(time.Second)
		if got := w.nodeReady("n"); got != corev1.ConditionTrue {
			t.Errorf("ready is %s", got)
		}
	})
}

// TestRangeRunsOut: a pod for which no address is free waits, says so, and gets the next that is.
func TestRangeRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "10.0.0.0/29") // less the network's, the node's and the last: five
		for i := range 7 {
			w.pod(fmt.Sprintf("p%d", i), "n", nil)
			synctest.Wait()
		}
		count := func() (n int) {
			for _, p := range w.pods() {
				if shows(p) == "Running Ready" {
					n++
				}
			}
			return n
		}
		if got := count(); got != 5 {
			t.Errorf("%d pods run", got)
		}
		if got := w.events("FailedCreatePodSandBox"); len(got) != 2 || !strings.Contains(got[0], "10.0.0.0/29") {
			t.Errorf("events %q", got)
		}
		w.delete("p0", 30)
		w.delete("p5", 30) // one that waits takes none along
		synctest.Wait()
		if got := count(); got != 5 || shows(w.find("p6")) != "Running Ready" {
			t.Errorf("%d pods run, p6 is %s", got, shows(w.find("p6")))
		}
	})
}

// TestRefused: a write that the API refuses is tried again.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "10.0.0.0/24")
		synctest.Wait()
		var mu sync.Mutex
		refusals := map[string]int{"update": 3}
		w.Fail = func(verb string, ref object.Ref, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			if ref.Resource != resource.Pods || refusals[verb] == 0 {
				return nil
			}
			refusals[verb]--
			return errors.New("the disk is full")
		}
		w.pod("p", "n", map[string]string{simnode.TerminateAfter: "5s"})
		w.want("p", "Pending")
		time.Sleep(time.Minute)
		w.want("p", "Running Ready")
		w.delete("p", 30)
		mu.Lock()
		refusals["delete"] = 2
		mu.Unlock()
		time.Sleep(time.Minute)
		w.want("p", "gone")
	})
}

// TestLease: it is there while there is a simulated node.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leases := func() (out []string) {
			looptest.Rest()
			for _, o := range w.View.List(resource.Leases, nodelife.LeaseNamespace) {
				out = append(out, o.GetName())
			}
			return out
		}
		time.Sleep(time.Minute)
		if got := leases(); got != nil {
			t.Errorf("with no node: %v", got)
		}
		n := w.node("n", "10.0.0.0/24")
		if d := cmp.Diff([]string{simnode.Lease}, leases()); d != "" {
			t.Error(d)
		}
		looptest.Remove(w.Cluster, n, "")
		if got := leases(); got != nil {
			t.Errorf("with no node left: %v", got)
		}
		w.node("n", "10.0.0.0/24")
		if d := cmp.Diff([]string{simnode.Lease}, leases()); d != "" {
			t.Error(d)
		}
	})
}

// TestNodeSays: the annotations of a node shape its pods from the moment they are put on it, and
// what cannot be used is told once.
func TestNodeSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "10.0.0.0/24")
		w.pod("p", "n", nil)
		w.want("p", "Running Ready")
		w.annotate(resource.Nodes, "", "n", simnode.NeverReady, "true")
		w.want("p", "Running")
		w.annotate(resource.Pods, "d", "p", simnode.NeverReady, "false")
		w.want("p", "Running Ready")
		w.annotate(resource.Pods, "d", "p", simnode.ReadyAfter, "soon")
		w.annotate(resource.Nodes, "", "n", simnode.StartAfter, "now")
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.events("InvalidSimulation"); len(got) != 2 {
			t.Errorf("told %q", got)
		}
	})
}

// releasedOn is a volume of the local class that its claim has left and that a node is to reclaim.
func releasedOn(node, name string) *corev1.PersistentVolume {
	create := corev1.HostPathDirectoryOrCreate
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Finalizers: []string{"other", reclaim.DataFinalizer}, Labels: map[string]string{reclaim.By: node},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": reclaim.Local},
		},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/volumes/" + name, Type: &create}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased},
	}
}

// TestReclaim: the data of a volume that was on a simulated node are soon said to be removed, also
// when the node was silent at first; those on other nodes are let be, and those of a bound volume.
func TestReclaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n", "10.0.0.0/24")
		w.node("silent", "10.0.1.0/24")
		synctest.Wait()
		w.annotate(resource.Nodes, "", "silent", simnode.Fault, simnode.FaultSilent)
		looptest.Make(w.Cluster, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "real"}})
		synctest.Wait() // nodes and volumes come by watches of their own
		for _, name := range []string{"n", "silent", "real"} {
			looptest.Make(w.Cluster, releasedOn(name, "on-"+name))
		}
		bound := releasedOn("n", "bound")
		bound.Status.Phase = corev1.VolumeBound
		looptest.Make(w.Cluster, bound)
		left := func() (out []string) {
			synctest.Wait()
			for _, o := range w.View.List(resource.PersistentVolumes, "") {
				if slices.Contains(o.GetFinalizers(), reclaim.DataFinalizer) {
					out = append(out, o.GetName())
				}
			}
			return out
		}
		if d := cmp.Diff([]string{"bound", "on-real", "on-silent"}, left()); d != "" {
			t.Error(d)
		}
		w.annotate(resource.Nodes, "", "silent", simnode.Fault, "")
		if d := cmp.Diff([]string{"bound", "on-real"}, left()); d != "" {
			t.Error(d)
		}
	})
}
