package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// TestEnvFileStaysInside: what a container put in its volume leads to nothing outside, and cannot hold the agent up.
func TestEnvFileStaysInside(t *testing.T) {
	f := newFixture(t)
	pod := podWith("p",
		corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}})
	if _, err := f.m.EnvFile(pod, "v", "x"); err == nil || !strings.Contains(err.Error(), "not ready") {
		t.Errorf("before it is mounted: %v", err)
	}
	f.mustMount(pod)
	dir, outside := f.path(pod, "v"), filepath.Join(f.base, "outside")
	for path, text := range map[string]string{outside: "SECRET='1'", filepath.Join(dir, "file"): "A='b'", filepath.Join(dir, "large"): strings.Repeat("x", mostEnvFile+1)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "file", "out": outside, "up": "../../../../../outside"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"file", "link"} {
		if got, err := f.m.EnvFile(pod, "v", path); string(got) != "A='b'" || err != nil {
			t.Errorf("%s: %q %v", path, got, err)
		}
	}
	for _, path := range []string{"out", "up", "none"} {
		if got, err := f.m.EnvFile(pod, "v", path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q %v", path, got, err)
		}
	}
	for path, says := range map[string]string{"fifo": "no file", ".": "no file", "large": "at most"} {
		if _, err := f.m.EnvFile(pod, "v", path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := f.m.EnvFile(pod, "cm", "a"); err == nil || !strings.Contains(err.Error(), "emptyDir") {
		t.Errorf("of a ConfigMap: %v", err)
	}
}
