package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/node/podsync"
	"coracle/internal/node/volume"
)

// TestHostPathThatBlocks: a FIFO where a file, a directory or a device was expected holds up neither the pod's start nor
// its deletion, and the pod says what is wrong.
func TestHostPathThatBlocks(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for kind, what := range map[corev1.HostPathType]string{
		corev1.HostPathFileOrCreate: "file", corev1.HostPathFile: "file", corev1.HostPathDirectory: "directory",
		corev1.HostPathDirectoryOrCreate: "directory", corev1.HostPathSocket: "socket", corev1.HostPathCharDev: "character device",
		corev1.HostPathBlockDev: "block device",
	} {
		t.Run(string(kind), func(t *testing.T) {
			inWorld(t, func(w *world) {
				spec := one("server:1")
				spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: fifo, Type: &kind}}}}
				w.create("pod", spec)
				w.settle(3 * time.Second)
				w.want("pod", "Pending main=ContainerCreating")
				says := `FailedMount: MountVolume.SetUp failed for volume "v" : hostPath type check failed: ` + fifo + " is not a " + what
				if got := w.events("pod"); !strings.Contains(got, says) {
					t.Errorf("events:\n%s\nwant %s", got, says)
				}
				w.delete("pod", nil)
				w.settle(time.Minute)
				w.want("pod", "gone")
			})
		})
	}
}

// TestLastWordsOfAnyFile: whatever lies where a termination message was expected, the agent reads a bounded piece of a
// regular file or nothing.
func TestLastWordsOfAnyFile(t *testing.T) {
	base := t.TempDir()
	volumes, err := volume.New(volume.Config{Pods: filepath.Join(base, "pods"), Root: filepath.Join(base, "volumes")})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{a: &agent{volumes: volumes}, uid: "pod"}
	secret := filepath.Join(base, "secret")
	if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		place func(path string) error
		want  string
	}{
		"text":      {func(p string) error { return os.WriteFile(p, []byte("bye"), 0o600) }, "bye"},
		"huge":      {func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, 1<<30)) }, strings.Repeat("\x00", longestMessage)},
		"FIFO":      {func(p string) error { return unix.Mkfifo(p, 0o600) }, ""},
		"link":      {func(p string) error { return os.Symlink(secret, p) }, ""},
		"directory": {func(p string) error { return os.Mkdir(p, 0o700) }, ""},
		"nothing":   {func(string) error { return nil }, ""},
	} {
		path := w.messageFile(name, 0)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := c.place(path); err != nil {
			t.Fatal(err)
		}
		if got := w.lastWords(nil, &podsync.Container{Name: name, ExitCode: 1}); got != c.want {
			t.Errorf("%s: %d bytes, %.20q", name, len(got), got)
		}
	}
}
