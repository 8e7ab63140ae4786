package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/client"
	"coracle/internal/node/cri"
	"coracle/internal/resource"
)

func clientList(namespace string) client.ListOptions { return client.ListOptions{Namespace: namespace} }

func TestPodRunsAndGoes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.settle(time.Second)
		w.want("web", "Running ready main=running")
		p := w.pod("web")
		if p.Status.PodIP == "" || p.Status.HostIP != "192.0.2.1" || p.Status.StartTime == nil || p.Status.QOSClass != corev1.PodQOSBestEffort {
			t.Errorf("status: %+v", p.Status)
		}
		w.delete("web", nil)
		w.settle(time.Second)
		w.want("web", "gone")
		w.clean()
		if got, want := w.events("web"), "Pulled: Container image \"server:1\" already present on machine and can be accessed by the pod\n"+
			"Created: Container created\nStarted: Container started\nKilling: Stopping container main"; got != want {
			t.Errorf("events:\n%s", got)
		}
	})
}

// clean fails the test when the runtime holds anything still.
func (w *world) clean() {
	w.t.Helper()
	if all, _ := w.runtime.Sandboxes(); all != 0 || len(w.runtime.Containers()) != 0 {
		w.t.Errorf("left behind: %d sandboxes, %d containers", all, len(w.runtime.Containers()))
	}
}

func TestCrashLoop(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("bad", one("crash:1")) // runs a second at a time
		for _, at := range []struct {
			after time.Duration
			state string
		}{
			{500 * time.Millisecond, "Running ready main=running"},
			{time.Second, "Running ready main=running*1"}, // the first restart is immediate
			{time.Second, "Running main=CrashLoopBackOff*1"},
			{8 * time.Second, "Running main=CrashLoopBackOff*1"},
			{time.Second + time.Second/2, "Running ready main=running*2"},
			{15 * time.Second, "Running main=CrashLoopBackOff*2"},
			{6 * time.Second, "Running ready main=running*3"},
			{39 * time.Second, "Running main=CrashLoopBackOff*3"},
			{2 * time.Second, "Running ready main=running*4"},
			{82 * time.Second, "Running main=CrashLoopBackOff*5"},
		} {
			w.settle(at.after)
			w.want("bad", at.state)
		}
		st := w.pod("bad").Status.ContainerStatuses[0]
		if want := "back-off 2m40s restarting failed container=main pod=bad_default(" + string(w.pod("bad").UID) + ")"; st.State.Waiting.Message != want {
			t.Errorf("message %q, want %q", st.State.Waiting.Message, want)
		}
		if last := st.LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" {
			t.Errorf("last state: %+v", last)
		}
		if got := w.events("bad"); !strings.Contains(got, "BackOff: Back-off restarting failed container main in pod bad_default(") {
			t.Errorf("events:\n%s", got)
		}
		if n := len(w.runtime.Containers()); n > 2 {
			t.Errorf("%d attempts kept, want the last two", n)
		}
		// A restarted agent goes on where the old one was: it neither restarts at once nor forgets.
		w.restart()
		w.settle(10 * time.Second)
		w.want("bad", "Running main=CrashLoopBackOff*5")
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		image  string
		policy corev1.RestartPolicy
		state  string
	}{
		{"job:1", corev1.RestartPolicyNever, "Succeeded main=Completed(0)"},
		{"job:1", corev1.RestartPolicyOnFailure, "Succeeded main=Completed(0)"},
		{"job:1", corev1.RestartPolicyAlways, "Running ready main=running*1"},
		{"crash:1", corev1.RestartPolicyNever, "Failed main=Error(3)"},
		{"crash:1", corev1.RestartPolicyOnFailure, "Running main=CrashLoopBackOff*1"},
		{"oom:1", corev1.RestartPolicyNever, "Failed main=OOMKilled(137)"},
	} {
		t.Run(string(c.policy)+" "+c.image, func(t *testing.T) {
			inWorld(t, func(w *world) {
				spec := one(c.image)
				spec.RestartPolicy = c.policy
				w.create("pod", spec)
				w.settle(8 * time.Second)
				w.want("pod", c.state)
				if _, ready := w.runtime.Sandboxes(); !strings.HasPrefix(c.state, "Running") && ready != 0 {
					t.Errorf("the sandbox of a finished pod is up")
				}
				w.restart()
				w.settle(time.Second)
				w.want("pod", c.state)
				w.delete("pod", nil)
				w.settle(time.Minute)
				w.want("pod", "gone")
				w.clean()
			})
		})
	}
}

func TestInitContainersAndSidecars(t *testing.T) {
	inWorld(t, func(w *world) {
		always := corev1.ContainerRestartPolicyAlways
		spec := one("server:1")
		spec.InitContainers = []corev1.Container{
			{Name: "first", Image: "job:1"}, // five seconds each
			{Name: "side", Image: "server:1", RestartPolicy: &always},
			{Name: "second", Image: "job:1"},
		}
		w.create("pod", spec)
		w.settle(time.Second)
		w.want("pod", "Pending first=running side=PodInitializing second=PodInitializing main=PodInitializing")
		if c := condition(w.pod("pod"), corev1.PodInitialized); c.Message != "containers with incomplete status: [first side second]" || c.Reason != "ContainersNotInitialized" {
			t.Errorf("Initialized: %+v", c)
		}
		w.settle(5 * time.Second)
		w.want("pod", "Pending first=Completed(0) side=running second=running main=PodInitializing")
		w.settle(5 * time.Second)
		w.want("pod", "Running ready first=Completed(0) side=running second=Completed(0) main=running")
		// A sidecar that dies is started again; nothing else is touched.
		w.runtime.Exit(w.running("side"), 1)
		w.settle(time.Second)
		w.want("pod", "Running ready first=Completed(0) side=running*1 second=Completed(0) main=running")
		w.delete("pod", nil)
		w.settle(time.Second)
		w.want("pod", "gone")
		w.clean()
		if got := w.events("pod"); strings.Index(got, "Stopping container main") > strings.Index(got, "Stopping container side") {
			t.Errorf("the sidecar must stop last:\n%s", got)
		}
	})
}

func TestSidecarEndsWithTheJob(t *testing.T) {
	inWorld(t, func(w *world) {
		always := corev1.ContainerRestartPolicyAlways
		spec := one("job:1")
		spec.RestartPolicy = corev1.RestartPolicyNever
		spec.InitContainers = []corev1.Container{{Name: "side", Image: "server:1", RestartPolicy: &always}}
		w.create("pod", spec)
		w.settle(4 * time.Second)
		w.want("pod", "Running ready side=running main=running")
		w.settle(4 * time.Second)
		w.want("pod", "Succeeded side=Error(143) main=Completed(0)")
	})
}

func TestInitContainerFails(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("server:1")
		spec.InitContainers = []corev1.Container{{Name: "first", Image: "crash:1"}}
		spec.RestartPolicy = corev1.RestartPolicyNever
		w.create("never", spec)
		spec.RestartPolicy = corev1.RestartPolicyAlways
		w.create("always", spec)
		w.settle(4 * time.Second)
		w.want("never", "Failed first=Error(3) main=PodInitializing")
		w.want("always", "Pending first=CrashLoopBackOff*1 main=PodInitializing")
	})
}

func condition(p *corev1.Pod, t corev1.PodConditionType) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c
		}
	}
	return corev1.PodCondition{}
}

// running returns the ID of the running container of a name.
func (w *world) running(name string) string {
	for _, list := range [][]corev1.ContainerStatus{w.pod("pod").Status.ContainerStatuses, w.pod("pod").Status.InitContainerStatuses} {
		for _, c := range list {
			if c.Name == name && c.State.Running != nil {
				return strings.TrimPrefix(c.ContainerID, "fake://")
			}
		}
	}
	w.t.Fatalf("container %s does not run", name)
	return ""
}

func TestImagePullFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("nowhere:1"))
		w.settle(time.Second)
		w.want("pod", "Pending main=ErrImagePull")
		if got := w.pod("pod").Status.ContainerStatuses[0].State.Waiting.Message; got != `failed to pull and unpack image "nowhere:1": not found` {
			t.Errorf("message %q", got)
		}
		w.settle(time.Second)
		w.want("pod", "Pending main=ImagePullBackOff")
		w.runtime.Publish("nowhere:1", images["server:1"])
		w.settle(9 * time.Second)
		w.want("pod", "Running ready main=running")
		for _, want := range []string{
			`Failed: Failed to pull image "nowhere:1": failed to pull`, "Failed: Error: ErrImagePull", `BackOff: Back-off pulling image "nowhere:1"`,
			"Failed: Error: ImagePullBackOff", `Pulled: Successfully pulled image "nowhere:1" in `,
		} {
			if got := w.events("pod"); !strings.Contains(got, want) {
				t.Errorf("no event %q in\n%s", want, got)
			}
		}
	})
}

// TestImageVolume: an image that is mounted as a volume is pulled like a container's, and given to the runtime whole or in
// part.
func TestImageVolume(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("server:1")
		spec.Volumes = []corev1.Volume{{Name: "model", VolumeSource: corev1.VolumeSource{
			Image: &corev1.ImageVolumeSource{Reference: "files:1", PullPolicy: corev1.PullIfNotPresent},
		}}}
		spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "model", MountPath: "/model"}, {Name: "model", MountPath: "/part", SubPath: "a/b"}}
		w.create("pod", spec)
		w.settle(time.Second)
		w.want("pod", "Pending main=ErrImagePull")
		if got := w.pod("pod").Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(got, `volume "model": `) || !strings.Contains(got, `"files:1"`) {
			t.Errorf("message %q", got)
		}
		w.runtime.Publish("files:1", images["server:1"])
		w.settle(11 * time.Second)
		w.want("pod", "Running ready main=running")
		var got []string
		for _, m := range w.runtime.Containers()[0].Config.Mounts {
			if m.GetImage().GetImage() != "" {
				got = append(got, fmt.Sprint(m.ContainerPath, " ", m.Image.Image, " ", m.ImageSubPath, " ", m.Readonly, " ", m.HostPath))
			}
		}
		if want := []string{"/model files:1  true ", "/part files:1 a/b true "}; !slices.Equal(got, want) {
			t.Errorf("mounts %q, want %q", got, want)
		}
	})
}

func TestContainersThatCannotStart(t *testing.T) {
	never := one("nowhere:1")
	never.Containers[0].ImagePullPolicy = corev1.PullNever
	noMap := one("server:1")
	noMap.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "missing"}}}}
	root := one("server:1")
	root.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsNonRoot: ptr(true)}
	for name, c := range map[string]struct {
		spec          corev1.PodSpec
		fail          string // the CRI call that fails
		reason, words string
	}{
		"policy never":     {never, "", "ErrImageNeverPull", `Container image "nowhere:1" is not present with pull policy of Never`},
		"bad name":         {one("Not A Name"), "", "InvalidImageName", "couldn't parse image name"},
		"no config map":    {noMap, "", "CreateContainerConfigError", `"missing" not found`},
		"must not be root": {root, "", "CreateContainerConfigError", "image will run as root"},
		"create fails":     {one("server:1"), "CreateContainer", "CreateContainerError", "broken"},
		"start fails":      {one("server:1"), "StartContainer", "RunContainerError", "broken"},
		"sandbox fails":    {one("server:1"), "RunPodSandbox", "ContainerCreating", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.failing.Store(&c.fail)
				w.create("pod", c.spec)
				w.settle(time.Second / 2)
				w.want("pod", "Pending main="+c.reason)
				if got := w.pod("pod").Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(got, c.words) {
					t.Errorf("message %q, want %q in it", got, c.words)
				}
				w.delete("pod", nil)
				w.settle(2 * time.Second)
				w.want("pod", "gone")
				w.clean()
			})
		})
	}
}

func TestEnvironmentThatIsNotThereYet(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("server:1")
		spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}}}}
		w.create("pod", spec)
		w.settle(2 * time.Minute)
		w.want("pod", "Pending main=CreateContainerConfigError")
		w.must(&corev1.Secret{ObjectMeta: meta("keys")})
		w.settle(time.Millisecond) // seen, not polled for
		w.want("pod", "Running ready main=running")
		w.delete("pod", nil)
		w.settle(time.Second)
		w.want("pod", "gone")
	})
}

func TestVolumeThatIsNotThereYet(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("server:1")
		spec.Volumes = []corev1.Volume{{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}}
		w.create("pod", spec)
		w.settle(20 * time.Second)
		w.want("pod", "Pending main=ContainerCreating")
		if got := w.events("pod"); !strings.Contains(got, `FailedMount: MountVolume.SetUp failed for volume "settings" : configmaps "settings" not found`) {
			t.Errorf("events:\n%s", got)
		}
		w.must(&corev1.ConfigMap{ObjectMeta: meta("settings")})
		w.settle(time.Millisecond) // its coming is seen, not polled for
		w.want("pod", "Running ready main=running")
	})
}

func TestTermination(t *testing.T) {
	stubborn := one("stubborn:1")
	hooked := one("hook:1") // its hook takes three seconds
	hooked.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}}}
	sleeper := one("server:1")
	sleeper.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 60}}}
	type deletion struct {
		at    time.Duration
		grace *int64
	}
	for name, c := range map[string]struct {
		spec      corev1.PodSpec
		deletions []deletion
		gone      time.Duration // from the first deletion
	}{
		"graceful":          {one("server:1"), []deletion{{0, nil}}, 0},
		"stubborn":          {stubborn, []deletion{{0, nil}}, 30 * time.Second},
		"grace of the call": {stubborn, []deletion{{0, ptr(int64(5))}}, 5 * time.Second},
		"shortened":         {stubborn, []deletion{{0, nil}, {10 * time.Second, ptr(int64(12))}}, 12 * time.Second},
		"forced":            {stubborn, []deletion{{0, ptr(int64(0))}}, 2 * time.Second},
		"forced later":      {stubborn, []deletion{{0, nil}, {10 * time.Second, ptr(int64(0))}}, 10 * time.Second},
		"hook":              {hooked, []deletion{{0, nil}}, 3 * time.Second},
		"endless hook":      {sleeper, []deletion{{0, ptr(int64(10))}}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.create("pod", c.spec)
				w.settle(time.Second)
				w.want("pod", "Running ready main=running")
				began := time.Now()
				for _, d := range c.deletions {
					w.settle(d.at - time.Since(began))
					w.delete("pod", d.grace)
				}
				w.settle(c.gone - time.Since(began) - 100*time.Millisecond)
				if _, ready := w.runtime.Sandboxes(); time.Since(began) < c.gone && ready == 0 {
					t.Errorf("stopped before its time")
				}
				w.settle(300 * time.Millisecond)
				w.want("pod", "gone")
				w.clean()
			})
		})
	}
}

func TestProbes(t *testing.T) {
	exec := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}}
	t.Run("liveness", func(t *testing.T) {
		inWorld(t, func(w *world) {
			spec := one("sick:1")
			spec.TerminationGracePeriodSeconds = ptr(int64(5))
			spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: exec, PeriodSeconds: 5, FailureThreshold: 3}
			w.create("pod", spec)
			w.settle(9 * time.Second)
			w.want("pod", "Running ready main=running")
			w.settle(2 * time.Second) // the third failure is at ten seconds
			w.want("pod", "Running ready main=running*1")
			for _, want := range []string{"Unhealthy: Liveness probe failed: feverish", "Killing: Container main failed liveness probe, will be restarted"} {
				if got := w.events("pod"); !strings.Contains(got, want) {
					t.Errorf("no event %q in\n%s", want, got)
				}
			}
		})
	})
	t.Run("readiness", func(t *testing.T) {
		inWorld(t, func(w *world) {
			spec := one("sick:1")
			spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: exec, PeriodSeconds: 5}
			w.create("pod", spec)
			w.settle(time.Minute)
			w.want("pod", "Running main=running")
			if c := condition(w.pod("pod"), corev1.ContainersReady); c.Reason != "ContainersNotReady" || c.Message != "containers with unready status: [main]" {
				t.Errorf("ContainersReady: %+v", c)
			}
		})
	})
	t.Run("ready at once, and still after the agent's restart", func(t *testing.T) {
		inWorld(t, func(w *world) {
			spec := one("server:1")
			spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: exec, PeriodSeconds: 60}
			spec.Containers[0].StartupProbe = &corev1.Probe{ProbeHandler: exec, PeriodSeconds: 1}
			w.create("pod", spec)
			w.settle(time.Second)
			w.want("pod", "Running ready main=running")
			w.settle(time.Minute)
			before := w.pod("pod")
			w.restart()
			w.settle(5 * time.Minute)
			if w.pod("pod").ResourceVersion != before.ResourceVersion {
				t.Errorf("a restart of the agent changed the status:\n%s", cmp.Diff(before.Status, w.pod("pod").Status))
			}
		})
	})
	t.Run("startup", func(t *testing.T) {
		inWorld(t, func(w *world) {
			spec := one("sick:1")
			spec.Containers[0].StartupProbe = &corev1.Probe{ProbeHandler: exec, PeriodSeconds: 2, FailureThreshold: 2}
			spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: exec, PeriodSeconds: 1, FailureThreshold: 1}
			spec.RestartPolicy = corev1.RestartPolicyNever
			w.create("pod", spec)
			w.settle(time.Second)
			w.want("pod", "Running main=running")
			w.settle(2 * time.Second)
			w.want("pod", "Failed main=Error(143)")
			if got := w.events("pod"); !strings.Contains(got, "Killing: Container main failed startup probe") || strings.Contains(got, "Liveness") {
				t.Errorf("events:\n%s", got)
			}
		})
	})
	t.Run("a port by a name that is not there", func(t *testing.T) {
		inWorld(t, func(w *world) {
			spec := one("server:1")
			spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}}}
			w.create("pod", spec)
			w.settle(time.Second)
			w.want("pod", "Running main=running")
			if got := w.events("pod"); !strings.Contains(got, `Readiness probe errored: the container has no port named "web"`) {
				t.Errorf("events:\n%s", got)
			}
		})
	})
}

func TestPostStart(t *testing.T) {
	inWorld(t, func(w *world) {
		hook := &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hello"}}}}
		w.create("pod", corev1.PodSpec{Containers: []corev1.Container{
			{Name: "main", Image: "hook:1", Lifecycle: hook}, {Name: "next", Image: "server:1"},
		}})
		w.settle(time.Second)
		w.want("pod", "Running main=running next=ContainerCreating")
		w.settle(3 * time.Second)
		w.want("pod", "Running ready main=running next=running")

		w.create("fails", corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "sick:1", Lifecycle: hook}}})
		w.settle(time.Second)
		w.want("fails", "Failed main=Error(143)")
		if got := w.events("fails"); !strings.Contains(got, "FailedPostStartHook: PostStartHook failed") {
			t.Errorf("events:\n%s", got)
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("server:1")
		spec.ActiveDeadlineSeconds = ptr(int64(10))
		w.create("pod", spec)
		w.settle(9 * time.Second)
		w.want("pod", "Running ready main=running")
		w.settle(2 * time.Second)
		w.want("pod", "Failed main=Error(143)")
		if st := w.pod("pod").Status; st.Reason != "DeadlineExceeded" || st.Message != "Pod was active on the node longer than the specified deadline" {
			t.Errorf("reason %q message %q", st.Reason, st.Message)
		}
	})
}

func TestPodWithAFinalizer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("server:1"))
		w.settle(time.Second)
		p := w.pod("pod").DeepCopy()
		p.Finalizers = []string{"example.com/wait"}
		if _, err := w.cluster.Update(t.Context(), p, ""); err != nil {
			t.Fatal(err)
		}
		w.delete("pod", nil)
		w.settle(time.Second)
		w.want("pod", "Failed main=Error(143)")
		before := w.cluster.Calls()["delete"]
		w.settle(5 * time.Minute)
		if more := w.cluster.Calls()["delete"] - before; more != 0 {
			t.Errorf("the object was deleted %d times more", more)
		}
		p = w.pod("pod").DeepCopy()
		p.Finalizers = nil
		if _, err := w.cluster.Update(t.Context(), p, ""); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Second)
		w.want("pod", "gone")
		w.clean()
	})
}

func TestStatusThatTheAPIRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("server:1"))
		w.settle(time.Second)
		w.refuseStatus.Store(true)
		w.delete("pod", nil)
		w.settle(time.Second)
		w.want("pod", "gone") // a pod must not be kept for a status that nobody will take
		w.clean()
	})
}

func TestVolumeOverItsLimitEvicts(t *testing.T) {
	inWorld(t, func(w *world) {
		limit := quantity.MustParse("64Ki")
		spec := one("server:1")
		spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
		p := w.create("pod", spec)
		w.settle(time.Minute)
		w.want("pod", "Running ready main=running")
		file := filepath.Join(w.cfg.Dir, "pods", string(p.UID), "volumes/scratch/big")
		if err := os.WriteFile(file, make([]byte, 256<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		w.settle(31 * time.Second)
		w.want("pod", "Failed main=Error(143)")
		if st := w.pod("pod").Status; st.Reason != "Evicted" || st.Message != `Usage of EmptyDir volume "scratch" exceeds the limit "64Ki". ` {
			t.Errorf("reason %q message %q", st.Reason, st.Message)
		}
	})
}

func TestEventsOfOneObjectAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("sick:1")
		spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}, PeriodSeconds: 1}
		w.create("pod", spec)
		w.settle(10 * time.Minute)
		before := w.cluster.Calls()["update"] + w.cluster.Calls()["create"]
		w.settle(10 * time.Minute)
		if more := w.cluster.Calls()["update"] + w.cluster.Calls()["create"] - before; more > 60+4 { // the lease, and a few
			t.Errorf("%d writes in ten minutes", more)
		}
	})
}

func TestImageEditRestartsTheContainer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("server:1"))
		w.settle(time.Second)
		p := w.pod("pod").DeepCopy()
		p.Spec.Containers[0].Image = "server:2"
		if _, err := w.cluster.Update(t.Context(), p, ""); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Second)
		w.want("pod", "Running ready main=running*1")
		if got := w.events("pod"); !strings.Contains(got, "Killing: Container main definition changed, will be restarted") {
			t.Errorf("events:\n%s", got)
		}
	})
}

func TestSandboxDies(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("server:1"))
		w.settle(time.Second)
		for _, c := range w.runtime.Containers() {
			w.runtime.KillSandbox(c.Sandbox)
		}
		w.settle(time.Second)
		w.want("pod", "Running ready main=running*1")
		if _, ready := w.runtime.Sandboxes(); ready != 1 {
			t.Errorf("%d sandboxes are up", ready)
		}
	})
}

func TestServerAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("server:1"))
		w.settle(time.Second)
		id := w.running("main")
		w.away(true)
		w.runtime.Exit(id, 9)
		w.settle(time.Minute)
		w.want("pod", "Running ready main=running") // what the API last heard
		if n := len(w.runtime.Containers()); n != 2 {
			t.Errorf("%d containers: the crashed one must be restarted though the API is away", n)
		}
		w.away(false)
		w.settle(10 * time.Second)
		w.want("pod", "Running ready main=running*1")
		w.away(true)
		w.restart() // an agent that starts without an API leaves containers alone
		w.settle(time.Minute)
		if n := len(w.runtime.Containers()); n != 2 {
			t.Errorf("%d containers", n)
		}
		w.away(false)
		w.settle(10 * time.Second)
		w.want("pod", "Running ready main=running*1")
	})
}

// away makes every call of the API fail and ends every watch, or lets them through again.
func (w *world) away(yes bool) {
	w.apiAway.Store(yes)
	if yes {
		w.cluster.Compact() // a watch that goes on would hear of nothing
	}
}

func TestForceDeletedWhileTheAgentWasDown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("stubborn:1"))
		w.settle(time.Second)
		w.stop()
		<-w.ended
		w.delete("pod", ptr(int64(0)))
		w.create("pod", one("server:1"))
		w.start()
		w.settle(time.Second)
		// Never two at once: the new one waits until the old one, which gets its two seconds, is dead.
		w.want("pod", "Pending main=ContainerCreating")
		w.settle(3 * time.Second)
		w.want("pod", "Running ready main=running")
		if n := len(w.runtime.Containers()); n != 1 {
			t.Errorf("%d containers", n)
		}
	})
}

// TestSandboxThatComesUpLate: its making was given up with its pod, and it came all the same.
func TestSandboxThatComesUpLate(t *testing.T) {
	inWorld(t, func(w *world) {
		w.settle(time.Second)
		_, err := w.runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "late", Namespace: "default", Uid: "gone"}, Labels: map[string]string{cri.PodUID: "gone"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		w.settle(time.Second)
		w.clean()
	})
}

func TestRuntimeAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("server:1"))
		w.settle(time.Second)
		w.failing.Store(ptr("everything"))
		w.create("late", one("server:1"))
		w.settle(20 * time.Second)
		if c := nodeReady(w.node()); c.Status != corev1.ConditionTrue {
			t.Errorf("a runtime that restarts makes its node not ready: %+v", c)
		}
		w.restart() // an agent that comes up before its runtime has the same patience
		w.settle(20 * time.Second)
		if c := nodeReady(w.node()); c.Status != corev1.ConditionTrue {
			t.Errorf("an agent's restart makes its node not ready: %+v", c)
		}
		w.settle(25 * time.Second)
		if c := nodeReady(w.node()); c.Status != corev1.ConditionFalse || !strings.Contains(c.Message, "container runtime is down") {
			t.Errorf("Ready: %+v", c)
		}
		w.want("pod", "Running ready main=running")
		w.failing.Store(nil)
		w.settle(15 * time.Second)
		w.want("late", "Running ready main=running")
		if c := nodeReady(w.node()); c.Status != corev1.ConditionTrue {
			t.Errorf("Ready: %+v", c)
		}
	})
}

func nodeReady(n *corev1.Node) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func TestNodeRegisters(t *testing.T) {
	inWorld(t, func(w *world) {
		w.settle(5 * time.Second)
		n := w.node()
		if c := nodeReady(n); c.Status != corev1.ConditionTrue || c.Reason != "KubeletReady" || c.Message != "kubelet is posting ready status" {
			t.Errorf("Ready: %+v", c)
		}
		if w.runtime.PodCIDR() != "10.244.0.0/24" {
			t.Errorf("the runtime was told the range %q", w.runtime.PodCIDR())
		}
		for _, l := range []string{corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable} {
			if n.Labels[l] == "" {
				t.Errorf("label %s is missing", l)
			}
		}
		if n.Annotations[volumeRoot] != w.cfg.VolumeRoot || n.Status.NodeInfo.KubeletVersion == "" || len(n.Status.Images) == 0 || n.Status.Capacity.Cpu().IsZero() {
			t.Errorf("node: %+v", n)
		}
		if _, err := w.cluster.Get(t.Context(), resource.Leases, corev1.NamespaceNodeLease, "one"); err != nil {
			t.Errorf("lease: %v", err)
		}
	})
}

func TestIdleAgentWritesOnlyItsLease(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("pod", one("server:1"))
		w.settle(2 * time.Minute)
		api, runtime := w.cluster.Calls(), w.runtime.Calls()
		w.settle(2 * time.Minute)
		for verb, n := range w.cluster.Calls() {
			more := n - api[verb]
			switch {
			case verb == "update" && more == 12: // the lease, every ten seconds
			case more != 0:
				t.Errorf("an idle agent made %d calls of %q in two minutes", more, verb)
			}
		}
		total := 0
		for call, n := range w.runtime.Calls() {
			total += n - runtime[call]
		}
		if total > 24 {
			t.Errorf("an idle agent made %d calls to the runtime in two minutes", total)
		}
	})
}
