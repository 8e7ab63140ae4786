package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/node/sysctl"
)

func withSysctl(name string) corev1.PodSpec {
	spec := one("server:1")
	spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name, Value: "1"}}}
	return spec
}

// TestSysctlForbidden: a pod that asks for a kernel parameter which its node does not allow fails before anything of it is
// made, also when the agent comes back; one that has begun is left alone whatever the node allows by then.
func TestSysctlForbidden(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("safe", withSysctl("net.ipv4.tcp_syncookies"))
		p := w.create("unsafe", withSysctl("net.core.somaxconn"))
		w.settle(2 * time.Second)
		w.want("safe", "Running ready main=running")
		st := w.pod("unsafe").Status
		if st.Phase != corev1.PodFailed {
			t.Errorf("phase %s", st.Phase)
		}
		if want := `Pod was rejected: forbidden sysctl: "net.core.somaxconn" not allowlisted`; st.Reason != "SysctlForbidden" || st.Message != want {
			t.Errorf("reason %q, message %q", st.Reason, st.Message)
		}
		if got, want := w.events("unsafe"), `SysctlForbidden: forbidden sysctl: "net.core.somaxconn" not allowlisted`; got != want {
			t.Errorf("events %q", got)
		}
		if all, _ := w.runtime.Sandboxes(); all != 1 {
			t.Errorf("%d sandboxes", all)
		}
		w.restart()
		w.settle(2 * time.Second)
		if again := w.pod("unsafe"); again.UID != p.UID || again.Status.Reason != sysctl.Forbidden {
			t.Errorf("after a restart: %+v", again.Status)
		}
		allowed, err := sysctl.Parse("net.core.*")
		if err != nil {
			t.Fatal(err)
		}
		w.cfg.UnsafeSysctls = allowed
		w.restart()
		w.settle(time.Second)
		w.create("allowed", withSysctl("net.core.somaxconn"))
		w.settle(2 * time.Second)
		w.want("allowed", "Running ready main=running")
		w.cfg.UnsafeSysctls = sysctl.List{}
		w.restart()
		w.settle(2 * time.Second)
		w.want("allowed", "Running ready main=running")
	})
}

// TestRuntimeClassHandler: a pod is run as its class says, or not at all.
func TestRuntimeClassHandler(t *testing.T) {
	inWorld(t, func(w *world) {
		for name, handler := range map[string]string{"usual": "fake", "boxed": "kata"} {
			w.must(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler})
		}
		for _, class := range []string{"usual", "boxed", "gone"} {
			spec := one("server:1")
			spec.RuntimeClassName = &class
			w.create(class, spec)
		}
		w.settle(2 * time.Second)
		w.want("usual", "Running ready main=running")
		for name, says := range map[string]string{"boxed": `runtime handler "kata" is not known`, "gone": `get RuntimeClass "gone"`} {
			w.held(name, "FailedCreatePodSandBox", says)
		}
		w.must(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "gone"}, Handler: "fake"})
		w.settle(time.Minute)
		w.want("gone", "Running ready main=running")
	})
}

// held fails the test unless a pod waits before its first container, and both its condition and an event say why.
func (w *world) held(name, reason, says string) {
	w.t.Helper()
	w.heldFor(name, reason, reason, says)
}

// heldFor is held with a word of the condition's own.
func (w *world) heldFor(name, event, reason, says string) {
	w.t.Helper()
	w.want(name, "Pending main=ContainerCreating")
	if events := w.events(name); !strings.Contains(events, event+": ") || !strings.Contains(events, says) {
		w.t.Errorf("events of %s: %s", name, events)
	}
	for _, c := range w.pod(name).Status.Conditions {
		if c.Type == corev1.PodReadyToStartContainers && (c.Reason != reason || !strings.Contains(c.Message, says)) {
			w.t.Errorf("condition of %s: %s: %s", name, c.Reason, c.Message)
		}
		if strings.Contains(c.Message, "rpc error") {
			w.t.Errorf("condition of %s speaks gRPC: %s", name, c.Message)
		}
	}
}

// TestVolumeKindsHeld: a pod with a volume of a kind that this node does not mount waits, and says so.
func TestVolumeKindsHeld(t *testing.T) {
	inWorld(t, func(w *world) {
		for name, source := range map[string]corev1.VolumeSource{
			"nfs":     {NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}},
			"csi":     {CSI: &corev1.CSIVolumeSource{Driver: "d"}},
			"git":     {GitRepo: &corev1.GitRepoVolumeSource{Repository: "r"}},
			"trusted": {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Path: "p", Name: new("b")}}}}},
			"vouched": {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{KeyPath: "p"}}}}},
			"huge":    {EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePages}},
		} {
			spec := one("server:1")
			spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
			w.create(name, spec)
			w.settle(2 * time.Second)
			w.held(name, "FailedMount", "support")
		}
	})
}

// TestLackingHeld: what no container of this node can be given holds its container back, with the field's name.
func TestLackingHeld(t *testing.T) {
	inWorld(t, func(w *world) {
		devices, labelled, loose := one("server:1"), one("server:1"), one("server:1")
		devices.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "raw", DevicePath: "/dev/x"}}
		labelled.SecurityContext = &corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Level: "s0:c1,c2"}}
		loose.Containers[0].SecurityContext = &corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t", Level: "s0"}}
		w.create("devices", devices)
		w.create("labelled", labelled)
		w.create("loose", loose)
		w.settle(2 * time.Second)
		w.want("loose", "Running ready main=running")
		for name, says := range map[string]string{"devices": "volumeDevices: ", "labelled": "seLinuxOptions: "} {
			w.want(name, "Pending main=CreateContainerConfigError")
			if m := w.pod(name).Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(m, says) {
				t.Errorf("%s: %s", name, m)
			}
			if !strings.Contains(w.events(name), "Failed: Error: "+says) {
				t.Errorf("events of %s: %s", name, w.events(name))
			}
		}
	})
}

// TestEnvFileAwaited: a container whose variable is not in its file waits and says so, and starts when it is there.
func TestEnvFileAwaited(t *testing.T) {
	inWorld(t, func(w *world) {
		spec := one("server:1")
		spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		from := &corev1.FileKeySelector{VolumeName: "v", Path: "set/env", Key: "COLOUR", Optional: new(false)}
		spec.Containers[0].Env = []corev1.EnvVar{{Name: "PAINT", ValueFrom: &corev1.EnvVarSource{FileKeyRef: from}}}
		p := w.create("painter", spec)
		w.settle(2 * time.Second)
		w.want("painter", "Pending main=CreateContainerConfigError")
		if m := w.pod("painter").Status.ContainerStatuses[0].State.Waiting.Message; m != `couldn't find file set/env of volume "v"` {
			t.Errorf("message %q", m)
		}
		dir := filepath.Join(w.cfg.Dir, "pods", string(p.UID), "volumes", "v", "set")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "env"), []byte("COLOUR='deep green'\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Minute)
		w.want("painter", "Running ready main=running")
		for _, c := range w.runtime.Containers() {
			for _, kv := range c.Config.Envs {
				if kv.Key == "PAINT" && string(kv.Value) == "deep green" {
					return
				}
			}
		}
		t.Error("the container does not have the variable")
	})
}

// TestLocalStorageLimits: a container that writes more than it may, or a pod whose containers and volumes do together, goes.
func TestLocalStorageLimits(t *testing.T) {
	inWorld(t, func(w *world) {
		limited := func(limits ...string) corev1.PodSpec {
			spec := corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}
			for i, limit := range limits {
				c := corev1.Container{Name: fmt.Sprintf("c%d", i), Image: "server:1"}
				c.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: quantity.MustParse(limit)}
				spec.Containers = append(spec.Containers, c)
			}
			return spec
		}
		w.runtime.Written = map[string]uint64{"c0": 100 << 10, "c1": 10 << 10}
		w.create("within", limited("128Ki", "64Ki"))
		w.create("over", limited("128Ki", "8Ki"))
		p := w.create("together", limited("128Ki", "64Ki"))
		w.settle(2 * time.Second)
		file := filepath.Join(w.cfg.Dir, "pods", string(p.UID), "volumes/v/big")
		if err := os.WriteFile(file, make([]byte, 256<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Minute)
		w.want("within", "Running ready c0=running c1=running")
		for name, message := range map[string]string{
			"over":     `Container c1 exceeded its local ephemeral storage limit "8Ki". `,
			"together": "Pod ephemeral local storage usage exceeds the total limit of containers 192Ki. ",
		} {
			if st := w.pod(name).Status; st.Phase != corev1.PodFailed || st.Reason != "Evicted" || st.Message != message {
				t.Errorf("%s: %s %s: %s", name, st.Phase, st.Reason, st.Message)
			}
		}
	})
}

// TestNamesOfPods: what is wrong with a pod's DNS configuration is said once, and a host name that the kernel would not
// take keeps the pod from starting, with the kubelet's words.
func TestNamesOfPods(t *testing.T) {
	inWorld(t, func(w *world) {
		many := one("server:1")
		many.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}}
		w.create("many", many)
		long := one("server:1")
		long.Hostname, long.Subdomain, long.SetHostnameAsFQDN = strings.Repeat("a", 60), "sub", new(true)
		w.create("long", long)
		w.settle(5 * time.Second)
		w.want("many", "Running ready main=running")
		const forming = "DNSConfigForming: Nameserver limits were exceeded, some nameservers have been omitted, " +
			"the applied nameserver line is: 192.0.2.53 192.0.2.1 192.0.2.2"
		if got := w.events("many"); strings.Count(got, forming) != 1 {
			t.Errorf("events:\n%s", got)
		}
		if got := w.events("long"); !strings.Contains(got, "FailedCreatePodSandBox: Failed to create pod sandbox: Failed to construct FQDN") {
			t.Errorf("events:\n%s", got)
		}
		if all, _ := w.runtime.Sandboxes(); all != 1 {
			t.Errorf("%d sandboxes, want that of one pod", all)
		}
	})
}
