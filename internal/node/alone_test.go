package node

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/client"
)

// sick is a pod whose container fails its liveness probe.
func sick() corev1.PodSpec {
	spec := one("sick:1")
	spec.Containers[0].LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"well?"}}},
		PeriodSeconds: 5, FailureThreshold: 1, TimeoutSeconds: 1, SuccessThreshold: 1, InitialDelaySeconds: 30,
	}
	return spec
}

// fed is a pod that crashes and needs of the API all that a container may.
func fed() corev1.PodSpec {
	spec := one("crash:1")
	spec.Containers[0].Env = []corev1.EnvVar{
		{Name: "SECRET", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "safe"}, Key: "code"}}},
		{Name: "TEXT", Value: "$(SECRET)!"},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
	}
	spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
		{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "plain"}}},
	}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "shown", MountPath: "/shown"}}
	spec.Volumes = []corev1.Volume{{Name: "shown", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "plain"}}}}}
	return spec
}

func (w *world) feed() {
	w.t.Helper()
	for _, obj := range []client.Object{
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "safe"},
			Data: map[string][]byte{"code": []byte("1234")}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "plain"},
			Data: map[string]string{"key": "value"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Port: 5432, Protocol: corev1.ProtocolTCP}}}},
	} {
		if _, err := w.cluster.Create(w.t.Context(), obj); err != nil {
			w.t.Fatal(err)
		}
	}
}

// given lists the variables of a pod's newest container.
func (w *world) given(pod string) (out []string) {
	var newest uint32
	for _, c := range w.runtime.Containers() {
		if c.Config.Labels["io.kubernetes.pod.name"] != pod || c.Config.Metadata.Attempt < newest {
			continue
		}
		newest, out = c.Config.Metadata.Attempt, nil
		for _, kv := range c.Config.Envs {
			out = append(out, kv.Key+"="+string(kv.Value))
		}
	}
	return out
}

// known are the files in which the agent keeps its pods, by name, with what tells one version from another.
func (w *world) known() map[string]string {
	w.t.Helper()
	dir := filepath.Join(w.cfg.Dir, "known")
	entries, err := os.ReadDir(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			w.t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			w.t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		out[e.Name()] = fmt.Sprint(info.Sys().(*syscall.Stat_t).Ino, " ", info.ModTime().UnixNano())
	}
	return out
}

// killed ends the agent and undoes on its disk what an agent that is killed would not have done. It returns when its
// successor has begun.
func (w *world) killed() {
	w.t.Helper()
	dir := filepath.Join(w.cfg.Dir, "known")
	before := map[string][]byte{}
	for name := range w.known() {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			w.t.Fatal(err)
		}
		before[name] = raw
	}
	w.stop()
	<-w.ended
	for name, raw := range before {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	w.start()
}

// TestKilledAgentGoesOn: an agent that is killed while no server's word counts goes on with the pods it had, by what is
// on its disk: whoever crashes is started again, with the environment and the volumes it had, and probes act.
func TestKilledAgentGoesOn(t *testing.T) {
	for name, gone := range map[string]func(*world){
		"it holds":          func(w *world) { w.swap(w.newCluster()) },
		"no server answers": func(w *world) { w.apiAway.Store(true) },
		"its record is spoilt": func(w *world) {
			w.apiAway.Store(true)
			w.settle(time.Minute)
			w.stop()
			<-w.ended
			if err := os.WriteFile(filepath.Join(w.cfg.Dir, "lineage.json"), []byte("{"), 0o600); err != nil {
				w.t.Fatal(err)
			}
			w.start()
			w.apiAway.Store(false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.feed()
				w.create("web", one("server:1"))
				w.create("sick", sick())
				w.create("fed", fed())
				w.settle(15 * time.Second)
				right, web, env := w.cluster, w.images("server:1"), w.given("fed")
				for _, part := range []string{"SECRET=1234 TEXT=1234! IP=10.244.0.", "P_key=value", "DB_SERVICE_HOST=10.96.0.7"} {
					if !strings.Contains(fmt.Sprint(env), part) {
						t.Fatalf("given: %v, want %s", env, part)
					}
				}
				gone(w)
				w.settle(time.Minute)
				w.killed()
				w.settle(30 * time.Second)
				crashed, ill := w.attempts("fed"), w.attempts("sick")
				w.settle(6 * time.Minute)
				w.ran(web)
				if got := w.attempts("fed"); got <= crashed {
					t.Errorf("the crashing container had %d starts, and has %d", crashed, got)
				}
				if got := w.attempts("sick"); got <= ill {
					t.Errorf("the container that fails its probe had %d starts, and has %d", ill, got)
				}
				if got := w.given("fed"); !sameSet(got, env) {
					t.Errorf("it was given\n%v\nand before\n%v", got, env)
				}
				w.killed() // what was decided alone is kept, too
				w.settle(time.Second)
				if name == "no server answers" {
					w.apiAway.Store(false)
				} else {
					w.swap(right)
				}
				if name == "its record is spoilt" {
					w.settle(time.Minute)
					w.accept(w.lease().Annotations["coracle.io/held"])
				}
				w.settle(time.Minute)
				w.ran(web)
				w.want("web", "Running ready main=running")
				if st := w.pod("fed").Status.ContainerStatuses[0]; uint32(st.RestartCount) <= crashed {
					t.Errorf("restarts told: %d", st.RestartCount)
				}
				for _, pod := range []string{"web", "sick", "fed"} {
					w.delete(pod, nil)
				}
				w.settle(time.Minute)
				w.clean()
				if left := w.known(); len(left) > 0 {
					t.Errorf("files of pods that are gone: %v", left)
				}
			})
		})
	}
}

func sameSet(a, b []string) bool {
	have := map[string]bool{}
	for _, s := range a {
		have[s] = true
	}
	for _, s := range b {
		if !have[s] {
			return false
		}
	}
	return len(a) == len(b)
}

// TestMachineRestartsWithoutServer: a machine that comes up without its server runs the pods it had, but for those that
// were ending; and ends, with the server back, those that are gone.
func TestMachineRestartsWithoutServer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.create("doomed", one("server:2"))
		w.create("going", one("stubborn:1"))
		w.settle(15 * time.Second)
		w.delete("going", nil)
		w.settle(time.Second)
		w.apiAway.Store(true)
		w.stop()
		<-w.ended
		for _, c := range w.runtime.Containers() {
			w.runtime.Exit(c.ID, 137)
		}
		boxes, err := w.runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, box := range boxes.Items {
			w.runtime.KillSandbox(box.Id)
		}
		w.start()
		w.settle(4 * time.Second)
		if got := w.ids(); len(got) > 0 {
			t.Errorf("before it is clear that there is no server: %v", got)
		}
		w.settle(time.Minute)
		a, b, c := w.images("server:1"), w.images("server:2"), w.images("stubborn:1")
		if len(a) != 1 || len(b) != 1 || len(c) > 0 {
			t.Errorf("run: %v %v %v", a, b, c)
		}
		w.apiAway.Store(false)
		w.delete("doomed", new(int64(0)))
		w.settle(time.Minute)
		w.want("web", "Running ready main=running*1")
		w.want("doomed", "gone")
		w.want("going", "gone")
		if got := w.images("server:2"); len(got) > 0 {
			t.Errorf("a pod that was deleted still runs: %v", got)
		}
	})
}

// TestRestWritesNothing: what is known is written when it changes, and not because time passes or an agent restarts.
func TestRestWritesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.create("other", one("server:2"))
		w.settle(15 * time.Second)
		before := w.known()
		if len(before) != 2 {
			t.Fatalf("%d files", len(before))
		}
		w.settle(time.Hour)
		w.restart()
		w.settle(time.Minute)
		w.apiAway.Store(true)
		w.restart()
		w.settle(time.Hour)
		if after := w.known(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("files %v, before %v", after, before)
		}
		w.apiAway.Store(false)
		w.settle(time.Minute)
		w.editPod("web", func(p *corev1.Pod) { metav1.SetMetaDataLabel(&p.ObjectMeta, "new", "label") })
		w.settle(time.Second)
		uid := string(w.pod("other").UID) + ".pod"
		switch after := w.known(); {
		case after[uid] != before[uid]:
			t.Error("another pod's change writes this one's file")
		case fmt.Sprint(after) == fmt.Sprint(before):
			t.Error("a change is not written")
		}
	})
}

// editPod changes a pod, whose status the agent may be writing.
func (w *world) editPod(name string, change func(*corev1.Pod)) {
	w.t.Helper()
	for {
		p := w.pod(name).DeepCopy()
		change(p)
		_, err := w.cluster.Update(w.t.Context(), p, "")
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			w.t.Fatal(err)
		}
	}
}

// TestDamagedKnowledge: of a pod whose file is damaged nothing is believed: it runs on untouched, the others are kept.
func TestDamagedKnowledge(t *testing.T) {
	inWorld(t, func(w *world) {
		spoilt := w.create("spoilt", one("crash:1"))
		w.create("whole", one("crash:1"))
		w.settle(15 * time.Second)
		w.swap(w.newCluster())
		w.settle(time.Minute)
		w.stop()
		<-w.ended
		path := filepath.Join(w.cfg.Dir, "known", string(spoilt.UID)+".pod")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		if err := os.WriteFile(path, raw, fs.FileMode(0o600)); err != nil {
			t.Fatal(err)
		}
		w.start()
		w.settle(30 * time.Second)
		bad, good := w.attempts("spoilt"), w.attempts("whole")
		w.settle(6 * time.Minute)
		if got := w.attempts("spoilt"); got != bad {
			t.Errorf("by a damaged file a container was started: %d starts, and %d", bad, got)
		}
		if got := w.attempts("whole"); got <= good {
			t.Errorf("the other pod's container had %d starts, and has %d", good, got)
		}
	})
}

// TestNothingIsKeptForAnotherServer: pods of a server that the node does not serve are not written down.
func TestNothingIsKeptForAnotherServer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.settle(15 * time.Second)
		w.swap(w.newCluster())
		w.create("intruder", one("server:2"))
		w.settle(time.Minute)
		w.killed()
		w.settle(time.Minute)
		if got := w.known(); len(got) != 1 {
			t.Errorf("%d pods are known", len(got))
		}
		if got := w.images("server:2"); len(got) > 0 {
			t.Errorf("a pod of the wrong server was started: %v", got)
		}
	})
}
