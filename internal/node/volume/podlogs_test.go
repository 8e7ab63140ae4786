package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/node/podlogs"
)

// withLogs gives the fixture a host with log directories of its own, and a node whose pods have logs.
func withLogs(t *testing.T) (f *fixture, host string) {
	t.Helper()
	needRoot(t)
	f = newFixture(t)
	host = filepath.Join(f.base, "var", "log")
	for _, dir := range []string{host + "/apt", f.base + "/logs/ns_a_1/c", f.base + "/links", f.base + "/home"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.m.cfg.PodLogs = podlogs.Place{Logs: f.base + "/logs", Links: f.base + "/links", Home: f.base + "/home", Top: host}
	f.m.cfg.Points = podlogs.Points{Lock: f.base + "/lock", Top: host}
	return f, host
}

// TestLogsOfPods: a volume of the host shows the logs of this node's pods where the host would have them, by whichever
// path above or below them it is mounted, and nothing else of the host is another.
func TestLogsOfPods(t *testing.T) {
	f, host := withLogs(t)
	back := corev1.MountPropagationBidirectional
	for name, c := range map[string]struct {
		path string
		vm   []corev1.VolumeMount
		want []string
	}{
		"above": {host, []corev1.VolumeMount{{MountPath: "/var/log", ReadOnly: true}},
			[]string{"/var/log HOST ro", "/var/log/pods BASE/logs ro", "/var/log/containers BASE/links ro"}},
		"far above": {f.base, []corev1.VolumeMount{{MountPath: "/host/"}},
			[]string{"/host/ BASE", "/host/var/log/pods BASE/logs", "/host/var/log/containers BASE/links"}},
		"one":       {host + "/pods", []corev1.VolumeMount{{MountPath: "/in"}}, []string{"/in BASE/logs"}},
		"the other": {host + "/containers/", []corev1.VolumeMount{{MountPath: "/in"}}, []string{"/in BASE/links"}},
		"in it":     {host + "/pods/ns_a_1", []corev1.VolumeMount{{MountPath: "/in"}}, []string{"/in BASE/logs/ns_a_1"}},
		"beside":    {host + "/apt", []corev1.VolumeMount{{MountPath: "/in"}}, []string{"/in HOST/apt"}},
		"by a sub-path": {filepath.Dir(host), []corev1.VolumeMount{{MountPath: "/in", SubPath: "log/pods"}},
			[]string{"/in BASE/logs"}},
		"above, by a sub-path": {filepath.Dir(host), []corev1.VolumeMount{{MountPath: "/in", SubPath: "log"}},
			[]string{"/in PIN", "/in/pods BASE/logs", "/in/containers BASE/links"}},
		"in it, by a sub-path": {host, []corev1.VolumeMount{{MountPath: "/in", SubPath: "pods/ns_a_1/c"}}, []string{"/in PIN"}},
		"twice": {host, []corev1.VolumeMount{{MountPath: "/var/log"}, {MountPath: "/var/log/pods/", SubPath: "apt"}},
			[]string{"/var/log HOST", "/var/log/pods/ PIN", "/var/log/containers BASE/links"}},
		"back to the host": {host, []corev1.VolumeMount{{MountPath: "/in", MountPropagation: &back}}, []string{"/in HOST"}},
	} {
		pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: c.path}}})
		f.mustMount(pod)
		for i := range c.vm {
			c.vm[i].Name = "v"
		}
		mounts, err := f.m.Mounts(pod, &corev1.Container{Name: "main", VolumeMounts: c.vm}, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, m := range mounts {
			at := fmt.Sprintf("%s %s", m.ContainerPath, f.place(m.HostPath, host))
			if m.ReadOnly {
				at += " ro"
			}
			got = append(got, at)
			if m.Is.Inode == 0 {
				t.Errorf("%s: %s could be exchanged before it is mounted", name, m.HostPath)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if err := f.m.Release(pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.m.cfg.Points.Release(f.m.cfg.PodLogs.Home); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(host); err != nil || len(left) != 1 {
		t.Errorf("the host has %v (%v), want what it had", left, err)
	}
}

// TestLogsWithoutMountPoint: where the mount points cannot be made, a pod that wants the logs waits and hears why; one that mounts
// a directory far above starts.
func TestLogsWithoutMountPoint(t *testing.T) {
	f, host := withLogs(t)
	f.m.cfg.Points.Lock = filepath.Join(host, "apt", "file", "lock")
	if err := os.WriteFile(filepath.Join(host, "apt", "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, starts := range map[string]bool{host: false, filepath.Dir(host): true, f.base: true, host + "/pods": true} {
		pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}})
		_, err := f.mount(pod)
		if starts != (err == nil) || err != nil && !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("%s: %v", path, err)
		}
		mounts, err := f.m.Mounts(pod, &corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/in"}}}, nil)
		if starts && (err != nil || len(mounts) != 1) {
			t.Errorf("%s: %d mounts (%v)", path, len(mounts), err)
		}
		if err := f.m.Release(pod.UID); err != nil {
			t.Fatal(err)
		}
	}
}

// place names a path by the directory that it lies in.
func (f *fixture) place(path, host string) string {
	for _, dir := range [][2]string{{host, "HOST"}, {f.base + "/pods", "PIN"}, {f.base, "BASE"}} {
		if rest, err := filepath.Rel(dir[0], path); err == nil && filepath.IsLocal(rest) {
			if dir[1] == "PIN" {
				return "PIN"
			}
			return filepath.Join(dir[1], rest)
		}
	}
	return path
}
