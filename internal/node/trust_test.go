package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	clientfake "coracle/internal/client/fake"
	"coracle/internal/node/lineage"
	"coracle/internal/object"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// holds fails the test unless all containers of before run on and the node says why it holds.
func (w *world) holds(before []string, reason lineage.Verdict) {
	w.t.Helper()
	w.ran(before)
	ready := w.nodeReady()
	if ready.Status != corev1.ConditionFalse || ready.Reason != string(reason) || !strings.Contains(ready.Message, "coracle node accept one") {
		w.t.Errorf("the node says %+v, want %s", ready, reason)
	}
	if got := w.events("one"); !strings.Contains(got, string(reason)+": ") {
		w.t.Errorf("events of the node:\n%s", got)
	}
	if w.lease().Annotations[lineage.Held] == "" {
		w.t.Error("the lease does not say that the node holds")
	}
}

func (w *world) ran(before []string) {
	w.t.Helper()
	running := map[string]bool{}
	for _, id := range w.ids() {
		running[id] = true
	}
	for _, id := range before {
		if !running[id] {
			w.t.Errorf("container %s was stopped", id)
		}
	}
}

// ids lists the containers that run, all or those of an image.
func (w *world) ids() []string { return w.images("") }

func (w *world) images(image string) []string {
	w.t.Helper()
	res, err := w.runtime.ListContainers(w.t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	runs := map[string]bool{}
	for _, c := range res.Containers {
		runs[c.Id] = c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	var out []string
	for _, c := range w.runtime.Containers() {
		if runs[c.ID] && (image == "" || c.Config.Image.Image == image || c.Config.Image.UserSpecifiedImage == image) {
			out = append(out, c.ID)
		}
	}
	return out
}

// attempts is how often the container of a pod was started again.
func (w *world) attempts(pod string) (most uint32) {
	for _, c := range w.runtime.Containers() {
		if c.Config.Labels["io.kubernetes.pod.name"] == pod {
			most = max(most, c.Config.Metadata.Attempt)
		}
	}
	return most
}

func (w *world) nodeReady() corev1.NodeCondition {
	w.t.Helper()
	for _, c := range w.node().Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func (w *world) lease() *metav1.ObjectMeta {
	w.t.Helper()
	obj, err := w.cluster.Get(w.t.Context(), resource.Leases, corev1.NamespaceNodeLease, "one")
	if err != nil {
		w.t.Fatal(err)
	}
	return &metav1.ObjectMeta{Annotations: obj.GetAnnotations(), ResourceVersion: obj.GetResourceVersion()}
}

func (w *world) accept(name string) {
	w.edit(func(n *corev1.Node) { metav1.SetMetaDataAnnotation(&n.ObjectMeta, lineage.Accept, name) })
}

// grow has the cluster write something of no account.
func (w *world) grow(n int) {
	w.t.Helper()
	for range n {
		w.touch()
	}
}

func (w *world) touch() {
	w.t.Helper()
	ev := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "grow-"}}
	if _, err := w.cluster.Create(w.t.Context(), ev); err != nil {
		w.t.Fatal(err)
	}
}

// TestServerLosesItsStore is the node's side of a store that is lost, replaced, or set back: what the server no longer
// knows runs on, whoever restarts meanwhile, and goes on as if nothing had been once the right store is back.
func TestServerLosesItsStore(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason lineage.Verdict
		wrong  func(w *world, early *clientfake.Cluster) *clientfake.Cluster
	}{
		{"an empty store of a new identity", lineage.OtherCluster, func(w *world, _ *clientfake.Cluster) *clientfake.Cluster { return w.newCluster() }},
		{"another cluster that is far ahead", lineage.OtherCluster, func(w *world, _ *clientfake.Cluster) *clientfake.Cluster {
			other := w.newCluster()
			other.Load(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "far", UID: "far", ResourceVersion: "100000"}})
			return other
		}},
		{"an empty store that kept its name", lineage.ServerKnowsLess, func(*world, *clientfake.Cluster) *clientfake.Cluster { return clusterOf("cluster-1") }},
		{"an older copy", lineage.ServerKnowsLess, func(_ *world, early *clientfake.Cluster) *clientfake.Cluster { return early }},
		{"an older copy that has gone on without this node", lineage.ServerKnowsLess, func(w *world, early *clientfake.Cluster) *clientfake.Cluster {
			w.cluster = early
			w.began += 100
			w.swap(early) // by a server that this node never meets
			w.grow(1000)
			return early
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				early := w.cluster.Fork()
				w.create("web", one("server:1"))
				w.create("shy", one("crash:1"))
				w.settle(15 * time.Second)
				right, web := w.cluster, w.images("server:1")
				dir := filepath.Join(w.cfg.podsDir(), string(w.pod("web").UID))

				w.swap(c.wrong(w, early))
				w.settle(45 * time.Second)
				w.holds(web, c.reason)
				w.create("intruder", one("server:2")) // what this server wants is not done
				w.settle(5 * time.Minute)
				w.holds(web, c.reason)
				if len(w.images("server:2")) > 0 {
					t.Error("a pod of the wrong server was started")
				}
				w.restart()
				w.settle(time.Minute)
				w.holds(web, c.reason)
				w.accept("not this hold")
				w.grow(1000) // it goes on, past what the node has seen
				w.swap(w.cluster)
				w.settle(time.Minute)
				w.holds(web, c.reason)
				if _, err := os.Stat(dir); err != nil {
					t.Errorf("the pod's directory: %v", err)
				}

				w.swap(right)
				w.settle(time.Minute)
				w.ran(web)
				w.want("web", "Running ready main=running")
				if got := w.nodeReady(); got.Status != corev1.ConditionTrue {
					t.Errorf("with the right store back: %+v", got)
				}
				if w.lease().Annotations[lineage.Held] != "" {
					t.Error("the right server is told of a hold")
				}
				w.delete("web", nil)
				w.delete("shy", nil)
				w.settle(time.Minute)
				w.want("web", "gone")
				w.clean()
			})
		})
	}
}

// TestProbesAndRestartsGoOn: what the node knows of its pods it goes on doing, whatever the server is.
func TestProbesAndRestartsGoOn(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("shy", one("crash:1"))
		sick := one("sick:1")
		sick.Containers[0].LivenessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"well?"}}},
			PeriodSeconds: 5, FailureThreshold: 1, TimeoutSeconds: 1, SuccessThreshold: 1, InitialDelaySeconds: 30,
		}
		w.create("sick", sick)
		w.settle(10 * time.Second)
		shy, ill := w.attempts("shy"), w.attempts("sick")
		w.swap(w.newCluster())
		w.settle(2 * time.Minute)
		if got := w.attempts("shy"); got <= shy {
			t.Errorf("the crashing container had %d starts, and has %d", shy, got)
		}
		if got := w.attempts("sick"); got <= ill {
			t.Errorf("the container that fails its probe had %d starts, and has %d", ill, got)
		}
	})
}

// TestAcceptServer: the administrator's word, and only the one for this hold, makes the server's word good.
func TestAcceptServer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.settle(15 * time.Second)
		w.swap(w.newCluster())
		w.settle(time.Minute)
		w.holds(w.ids(), lineage.OtherCluster)
		w.create("new", one("server:2"))
		w.accept(w.lease().Annotations[lineage.Held])
		w.edit(func(n *corev1.Node) { n.Spec.PodCIDR = "10.244.0.0/24" })
		w.settle(time.Minute)
		w.want("new", "Running ready main=running")
		if len(w.images("server:1")) > 0 {
			t.Error("the pod that this server does not know still runs")
		}
		if w.lease().Annotations[lineage.Held] != "" {
			t.Error("the lease still says that the node holds")
		}
		// It is the node's server from now on, after a restart too.
		w.restart()
		w.settle(time.Minute)
		w.want("new", "Running ready main=running")
		if got := w.nodeReady(); got.Status != corev1.ConditionTrue {
			t.Errorf("%+v", got)
		}
	})
}

// TestAcceptIsForOnce: a store that is set back takes the administrator's old word with it, which is no word for now.
func TestAcceptIsForOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.settle(15 * time.Second)
		w.swap(w.newCluster())
		w.settle(time.Minute)
		w.accept(w.lease().Annotations[lineage.Held])
		w.edit(func(n *corev1.Node) { n.Spec.PodCIDR = "10.244.0.0/24" })
		w.settle(time.Minute)
		copied := w.cluster.Fork()
		w.create("new", one("server:2"))
		w.settle(time.Minute)
		w.swap(copied)
		w.settle(time.Minute)
		w.holds(w.images("server:2"), lineage.ServerKnowsLess)
		if len(w.images("server:2")) != 1 {
			t.Error("the pod was stopped")
		}
	})
}

// TestDamagedRecordHolds: a node that cannot tell whom it served believes nobody.
func TestDamagedRecordHolds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.settle(15 * time.Second)
		before := w.ids()
		w.stop()
		<-w.ended
		if err := os.WriteFile(filepath.Join(w.cfg.Dir, "lineage.json"), []byte(`{"cluster":`), 0o600); err != nil {
			t.Fatal(err)
		}
		w.delete("web", ptr(int64(0)))
		w.start()
		w.settle(time.Minute)
		w.holds(before, lineage.RecordDamaged)
		w.accept(w.lease().Annotations[lineage.Held])
		w.settle(time.Minute)
		w.clean()
	})
}

// TestReclaimHolds: no volume's data are removed by the word of a server that is not the node's.
func TestReclaimHolds(t *testing.T) {
	inWorld(t, func(w *world) {
		path := filepath.Join(w.cfg.VolumeRoot, "pv-1")
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		other := w.newCluster()
		pv := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{
				Name: "pv-1", UID: "pv", ResourceVersion: "7", Finalizers: []string{"coracle.io/volume-data"},
				Labels:      map[string]string{reclaim.By: "one"},
				Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": reclaim.Local},
			},
			Spec: corev1.PersistentVolumeSpec{
				PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
				PersistentVolumeSource: corev1.PersistentVolumeSource{
					HostPath: &corev1.HostPathVolumeSource{Path: path, Type: ptr(corev1.HostPathDirectoryOrCreate)},
				},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{
						{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"one"}},
					},
				}}}},
				ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: "gone", UID: "gone"},
			},
			Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased},
		}
		other.Load(pv)
		w.swap(other)
		w.settle(5 * time.Minute)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("the data were removed: %v", err)
		}
		w.accept(w.lease().Annotations[lineage.Held])
		w.settle(5 * time.Minute)
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("once the server is accepted the data stay: %v", err)
		}
	})
}

// TestOrdinaryLossesAreNoHold: servers that restart, watches that expire, and a node deleted and made anew are daily life.
func TestOrdinaryLossesAreNoHold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.settle(15 * time.Second)
		for range 3 {
			w.swap(w.cluster)
			w.settle(5 * time.Second)
			w.cluster.Compact()
			w.settle(5 * time.Second)
			w.restart()
			w.settle(5 * time.Second)
			w.want("web", "Running ready main=running")
		}
		for _, ref := range []object.Ref{
			{Resource: resource.Leases, Key: object.Key{Namespace: corev1.NamespaceNodeLease, Name: "one"}},
			{Resource: resource.Nodes, Key: object.Key{Name: "one"}},
		} {
			if _, err := w.cluster.Delete(t.Context(), ref, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		w.restart()
		w.settle(time.Minute)
		if got := w.nodeReady(); got.Reason != "KubeletNotReady" && got.Reason != "KubeletReady" {
			t.Errorf("%+v", got)
		}
		w.want("web", "Running ready main=running")
	})
}
