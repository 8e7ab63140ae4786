package node

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestRealEnding: what ends a container that will not end, and what it may still do before.
func TestRealEnding(t *testing.T) {
	m := newMachine(t)
	data := filepath.Join(m.base, "data")
	volume := corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: data}}}
	mount := []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod := func(name, script string, hook *corev1.LifecycleHandler) {
		c := sh(script)
		c.VolumeMounts = mount
		if hook != nil {
			c.Lifecycle = &corev1.Lifecycle{PreStop: hook}
		}
		m.create(name, corev1.PodSpec{Containers: []corev1.Container{c}, Volumes: []corev1.Volume{volume}})
		m.untilState(name, "Running ready main=running")
	}
	wrote := func(name, want string) {
		t.Helper()
		if raw, err := os.ReadFile(filepath.Join(data, name)); err != nil || string(raw) != want {
			t.Errorf("%s: %q %v, want %q", name, raw, err, want)
		}
	}

	// The hook comes first, then TERM, and the program has its time to finish.
	pod("polite", "trap 'echo term >> /data/polite; exit 0' TERM; while :; do sleep 0.05; done",
		&corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "echo hook >> /data/polite"}}})
	m.delete("polite", nil)
	m.untilState("polite", "gone")
	wrote("polite", "hook\nterm\n")

	// One that ignores TERM is killed; a shorter grace period given later counts at once.
	pod("stubborn", "trap '' TERM; echo $$ > /data/stubborn; while :; do sleep 0.05; done", nil)
	m.delete("stubborn", new(int64(1000))) // longer than is waited below
	m.until("the kill is under way", func() bool { return m.pod("stubborn").DeletionTimestamp != nil })
	m.delete("stubborn", new(int64(1)))
	m.untilState("stubborn", "gone")

	// An agent that restarts in the middle of it ends it.
	pod("resumed", "trap '' TERM; while :; do sleep 0.05; done", nil)
	m.delete("resumed", new(int64(3)))
	m.restartAgent()
	m.untilState("resumed", "gone")
	m.until("nothing is left in the runtime", func() bool {
		pods, err := m.cri.Pods(t.Context())
		return err == nil && len(pods) == 0
	})
}
