package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/container"
)

// sourcesOf says as an agent does which files the sources of mounts are.
func sourcesOf(t *testing.T, mounts []*cri.Mount) map[string]string {
	t.Helper()
	is := map[string]string{}
	for _, m := range mounts {
		var st unix.Stat_t
		if err := unix.Stat(m.GetHostPath(), &st); err != nil {
			t.Fatal(err)
		}
		is[m.GetContainerPath()] = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	}
	raw, err := json.Marshal(is)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{container.SourcesAnnotation: string(raw)}
}

// TestSourcesOfMounts: a source that was made another file between the agent's check and the mount is not shown to the
// container, whose process never begins.
func TestSourcesOfMounts(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("sources")
	base := filepath.Join(n.base, "host")
	for name, text := range map[string]string{"given/a": "a", "given/in/b": "b", "file": "f", "secret/a": "not for the pod"} {
		writeFile(t, filepath.Join(base, name), text)
	}
	mounts := []*cri.Mount{
		{ContainerPath: "/data", HostPath: filepath.Join(base, "given")},
		{ContainerPath: "/data/in", HostPath: filepath.Join(base, "given/in"), Readonly: true},
		{ContainerPath: "/var/run/file", HostPath: filepath.Join(base, "file")},
		{ContainerPath: "/sys/firmware", HostPath: filepath.Join(base, "given")}, // hidden by the mask
	}
	checked := sourcesOf(t, mounts)
	use := func(c *cri.ContainerConfig) { c.Mounts, c.Annotations = mounts, checked }
	if out := n.output(pod, cfg, "fine", "cat /data/a /data/in/b /var/run/file", use); out != "abf" {
		t.Errorf("container says %q", out)
	}
	if err := os.Rename(filepath.Join(base, "given"), filepath.Join(base, "away")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("secret", filepath.Join(base, "given")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(base, "secret", "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	id := n.sh(pod, cfg, "swapped", "cat /data/a; touch /data/ran", use)
	_, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: id})
	if err == nil || !strings.Contains(err.Error(), "mount /data: its source became another file") {
		t.Errorf("start: %v", err)
	}
	if st := n.status(id); st.State != cri.ContainerState_CONTAINER_EXITED || st.Reason != "StartError" {
		t.Errorf("%s %s", st.State, st.Reason)
	}
	if _, err := os.Stat(filepath.Join(base, "secret", "ran")); !os.IsNotExist(err) {
		t.Errorf("the container's process ran: %v", err)
	}
}

// TestFencedSources: a volume that the node mounts nosuid and nodev is, inside, as any other volume.
func TestFencedSources(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("fenced")
	dir := filepath.Join(n.base, "fenced")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(dir, "volume")
	if err := os.Mkdir(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	out := n.output(pod, cfg, "main", `mknod -m 666 /data/null c 1 3; echo x >/data/null && echo device`, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: volume}}
	})
	if out != "device\n" {
		t.Errorf("container says %q", out)
	}
	for _, readonly := range []bool{false, true} {
		out = n.output(pod, cfg, fmt.Sprintf("look-%t", readonly), "grep ' /data ' /proc/self/mountinfo", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: volume, Readonly: readonly}}
		})
		if f := strings.Fields(out); len(f) < 6 || strings.Contains(f[5], "nosuid") || strings.Contains(f[5], "nodev") || strings.HasPrefix(f[5], "ro") != readonly {
			t.Errorf("read-only %t: mounted as %q", readonly, out)
		}
	}
}
