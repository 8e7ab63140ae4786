package node

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runc/libcontainer/seccomp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
)

// must creates an object, its status included.
func (w *world) must(obj client.Object) client.Object {
	w.t.Helper()
	made, err := w.cluster.Create(w.t.Context(), obj)
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }

func sh(script string) corev1.Container {
	c := corev1.Container{
		Name: "main", Image: busybox, Command: []string{"/bin/sh", "-c", script}, ImagePullPolicy: corev1.PullIfNotPresent,
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}
	if !seccomp.Enabled { // the test binary was built without the product's tags
		c.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}
	}
	return c
}

// claim makes a bound claim whose volume is a directory of the node-local class.
func (m *machineUnderTest) claim(name string) (path string) {
	m.t.Helper()
	path = filepath.Join(m.base, "volumes", "pv-"+name)
	kind := corev1.HostPathDirectoryOrCreate
	pvc := m.must(&corev1.PersistentVolumeClaim{ObjectMeta: meta(name), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}})
	m.must(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "coracle.io/local"}, Finalizers: []string{"coracle.io/volume-data"}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}},
			ClaimRef:               &corev1.ObjectReference{Namespace: "default", Name: name, UID: pvc.GetUID()},
		},
	})
	return path
}

func TestRealPod(t *testing.T) {
	m := newMachine(t)
	m.must(&corev1.ConfigMap{ObjectMeta: meta("settings"), Data: map[string]string{"colour": "green"}})
	m.must(&corev1.Secret{ObjectMeta: meta("keys"), Data: map[string][]byte{"password": []byte("sesame")}})
	path := m.claim("data")
	main := sh(`echo "$GREETING colour=$COLOUR"; echo kept > /data/file; cat /secret/password; echo; cat /proc/1/cgroup >/dev/null; trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done`)
	main.Env = []corev1.EnvVar{
		{Name: "WHO", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "GREETING", Value: "hello from $(WHO)"},
		{Name: "COLOUR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Key: "colour"}}},
	}
	main.VolumeMounts = []corev1.VolumeMount{
		{Name: "data", MountPath: "/data"}, {Name: "settings", MountPath: "/settings"}, {Name: "secret", MountPath: "/secret", ReadOnly: true},
		{Name: "settings", MountPath: "/one", SubPath: "colour"}, {Name: "scratch", MountPath: "/scratch"}, {Name: "memory", MountPath: "/memory"},
	}
	pod := m.create("web", corev1.PodSpec{
		Containers: []corev1.Container{main},
		Volumes: []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
			{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "keys"}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		},
	})
	m.untilState("web", "Running ready main=running")
	m.until("log", func() bool { return strings.Contains(m.logs("web", "main", ""), "sesame") })
	if got, want := m.logs("web", "main", ""), "hello from web colour=green\nsesame\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
	if got := m.logs("web", "main", "?tailLines=1"); got != "sesame\n" {
		t.Errorf("tail %q", got)
	}
	if status, body := m.get("/containerLogs/default/web/main", m.certs.stranger); status != http.StatusForbidden {
		t.Errorf("another node's certificate: %d %s", status, body)
	}
	if raw, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(raw) != "kept\n" {
		t.Errorf("claim's data: %q %v", raw, err)
	}
	if out, err := m.exec("web", "main", "cat", "/settings/colour", "/one", "/etc/hosts"); err != nil || !strings.HasPrefix(out, "greengreen") || !strings.Contains(out, "\tweb\n") {
		t.Errorf("exec: %q %v", out, err)
	}

	cm, err := m.cluster.Update(t.Context(), &corev1.ConfigMap{ObjectMeta: meta("settings"), Data: map[string]string{"colour": "blue"}}, "")
	if err != nil || cm == nil {
		t.Fatal(err)
	}
	m.until("config map's edit in the volume", func() bool {
		out, err := m.exec("web", "main", "cat", "/settings/colour", "/one")
		return err == nil && out == "bluegreen" // a sub-path does not follow
	})

	before := m.pod("web").Status.ContainerStatuses[0].ContainerID
	m.killRuntime(t)
	m.restartAgent()
	m.until("exec after the runtime's death and the agent's restart", func() bool {
		out, err := m.exec("web", "main", "cat", "/data/file")
		return err == nil && out == "kept\n"
	})
	m.untilState("web", "Running ready main=running")
	if got := m.pod("web").Status.ContainerStatuses[0].ContainerID; got != before {
		t.Errorf("container %s, was %s: it must not be restarted", got, before)
	}

	m.delete("web", nil)
	m.untilState("web", "gone")
	m.until("pod directory removed", func() bool {
		_, err := os.Stat(filepath.Join(m.base, "agent/pods", string(pod.UID)))
		return os.IsNotExist(err)
	})
	if raw, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(raw) != "kept\n" {
		t.Errorf("claim's data after the pod: %q %v", raw, err)
	}
}
