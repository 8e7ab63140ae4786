package node

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runc/libcontainer/seccomp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

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

func TestRealLastWords(t *testing.T) {
	m := newMachine(t)
	file := sh("echo said; echo -n 'to the file' > /dev/termination-log; exit 4")
	logs := sh("echo one; echo two; exit 5")
	logs.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	hungry := sh("x=x; while :; do x=$x$x; done")
	hungry.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")}
	for name, c := range map[string]corev1.Container{"file": file, "logs": logs, "hungry": hungry} {
		m.create(name, corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{c}})
	}
	m.untilState("file", "Failed main=Error(4)")
	m.untilState("logs", "Failed main=Error(5)")
	m.untilState("hungry", "Failed main=OOMKilled(137)")
	last := func(name string) *corev1.ContainerStateTerminated {
		return m.pod(name).Status.ContainerStatuses[0].State.Terminated
	}
	if got := last("file").Message; got != "to the file" {
		t.Errorf("message of the file: %q", got)
	}
	if got := last("logs").Message; got != "one\ntwo\n" {
		t.Errorf("message of the logs: %q", got)
	}
	m.restartAgent()
	m.until("logs of a pod that ended, after the agent's restart", func() bool { return m.logs("file", "main", "") == "said\n" })
	if got := last("file").Message; got != "to the file" {
		t.Errorf("message after the agent's restart: %q", got)
	}
}

func TestRealRestartAndFollow(t *testing.T) {
	m := newMachine(t)
	main := sh("echo run; i=0; while [ $i -lt 5 ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 1")
	m.create("pod", corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{main}})
	m.until("the first run", func() bool { return strings.HasPrefix(m.logs("pod", "main", ""), "run") })
	// A followed log ends with its container, not with the request's patience.
	if got := m.logs("pod", "main", "?follow=true"); !strings.HasPrefix(got, "run\n0\n1\n2\n3\n4\n") {
		t.Errorf("followed: %q", got)
	}
	m.untilState("pod", "Running main=CrashLoopBackOff*1")
	if got := m.logs("pod", "main", "?previous=true"); got != "run\n0\n1\n2\n3\n4\n" {
		t.Errorf("previous: %q", got)
	}
	m.delete("pod", nil)
	m.untilState("pod", "gone")
}

func TestRealPodSharesAndIsolates(t *testing.T) {
	m := newMachine(t)
	server := sh("echo shared > /scratch/f; cat /proc/self/mounts | grep -c /scratch; while :; do echo pong | nc -l -p 8080; done")
	server.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	server.SecurityContext = withUser(server.SecurityContext, 1234)
	side := sh("id -u; id -G; hostname; cat /etc/resolv.conf; sleep 1000")
	side.Name = "side"
	side.VolumeMounts = server.VolumeMounts
	server.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(8080)}}, PeriodSeconds: 1}
	spec := corev1.PodSpec{
		Containers: []corev1.Container{server, side}, Subdomain: "web", ShareProcessNamespace: new(true),
		TerminationGracePeriodSeconds: new(int64(1)),
		SecurityContext:               &corev1.PodSecurityContext{FSGroup: new(int64(4321)), RunAsGroup: new(int64(99))},
		Volumes:                       []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
	}
	m.create("web-0", spec)
	other := corev1.PodSpec{Containers: []corev1.Container{sh("sleep 1000")}, TerminationGracePeriodSeconds: new(int64(1))}
	m.create("other", other)
	m.untilState("web-0", "Running ready main=running side=running")
	m.untilState("other", "Running ready main=running")
	ip := m.pod("web-0").Status.PodIP
	for _, c := range []struct {
		pod, ctr string
		command  []string
		want     string
	}{
		{"web-0", "side", []string{"cat", "/scratch/f"}, "shared\n"},                    // one volume
		{"web-0", "side", []string{"stat", "-c", "%u:%g", "/scratch/f"}, "1234:4321\n"}, // of the pod's group
		{"web-0", "side", []string{"nc", "127.0.0.1", "8080"}, "pong\n"},                // one loopback
		{"other", "main", []string{"nc", ip, "8080"}, "pong\n"},                         // reached from another pod
		{"web-0", "side", []string{"hostname"}, "web-0\n"},
	} {
		m.until(strings.Join(c.command, " "), func() bool {
			out, err := m.exec(c.pod, c.ctr, c.command...)
			return err == nil && out == c.want
		})
	}
	out, err := m.exec("web-0", "side", "ps", "-o", "args")
	if err != nil || !strings.Contains(out, "nc -l -p 8080") {
		t.Errorf("processes of the pod: %q %v", out, err)
	}
	out, err = m.exec("web-0", "side", "cat", "/etc/hosts")
	if err != nil || !strings.Contains(out, ip+"\tweb-0.web.default.svc.cluster.local\tweb-0\n") {
		t.Errorf("hosts: %q %v", out, err)
	}
	for _, pod := range []string{"web-0", "other"} {
		m.delete(pod, nil)
	}
	m.untilState("web-0", "gone")
	m.untilState("other", "gone")
}

func withUser(s *corev1.SecurityContext, uid int64) *corev1.SecurityContext {
	if s == nil {
		s = &corev1.SecurityContext{}
	}
	s.RunAsUser = &uid
	return s
}

// BenchmarkRealPodStart measures from the pod's creation to its Ready status, with the built-in
// runtime and an API in memory.
func BenchmarkRealPodStart(b *testing.B) {
	m := newMachine(b)
	n := 0
	for b.Loop() {
		name := fmt.Sprint("pod", n)
		n++
		m.create(name, corev1.PodSpec{Containers: []corev1.Container{sh("sleep 1000")}, TerminationGracePeriodSeconds: new(int64(0))})
		m.untilState(name, "Running ready main=running")
		b.StopTimer()
		m.delete(name, new(int64(0)))
		b.StartTimer()
	}
}
