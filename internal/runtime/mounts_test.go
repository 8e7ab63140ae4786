package runtime

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/container"
	"coracle/internal/runtime/image"
)

func TestMounts(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("mounts")
	host := filepath.Join(n.base, "vol")
	for name, text := range map[string]string{"rw/a": "a", "ro/b": "b", "file": "f"} {
		p := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := n.output(pod, cfg, "main", `
cat /data/a /data/deep/b /etc/hosts /image/bin/../etc/group; echo
echo new > /data/c && echo rw=ok
touch /data/deep/x 2>/dev/null && echo ro=writable || echo ro=ok
touch /image/x 2>/dev/null && echo image=writable || echo image=ok
/image/bin/true 2>/dev/null && echo image=executable || echo exec=refused
test -d /made && echo made=ok`, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{
			{ContainerPath: "/data/deep", HostPath: filepath.Join(host, "ro"), Readonly: true},
			{ContainerPath: "/data", HostPath: filepath.Join(host, "rw")},
			{ContainerPath: "/etc/hosts", HostPath: filepath.Join(host, "file")},
			{ContainerPath: "/made", HostPath: filepath.Join(host, "made")},
			{ContainerPath: "/image", Image: &cri.ImageSpec{Image: busybox}, Readonly: true},
		}
	})
	for _, want := range []string{"ab", "f", "keepers", "rw=ok", "ro=ok", "image=ok", "exec=refused", "made=ok"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q: %q", want, out)
		}
	}
	if raw, err := os.ReadFile(filepath.Join(host, "rw/c")); err != nil || string(raw) != "new\n" {
		t.Errorf("written file: %q %v", raw, err)
	}
}

func TestDevices(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("devices")
	out := n.output(pod, cfg, "main", `head -c 3 /dev/mine | wc -c; (echo x > /dev/mine) 2>/dev/null && echo writable || echo readonly; test -e /dev/kmsg && echo kmsg; ls /dev/null /dev/ptmx`, func(c *cri.ContainerConfig) {
		c.Devices = []*cri.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/mine", Permissions: "r"}}
	})
	// /dev/zero is allowed to every container, so that the file's own permissions do not narrow it.
	if want := "3\nwritable\n/dev/null\n/dev/ptmx\n"; out != want {
		t.Errorf("container says %q, want %q", out, want)
	}
	out = n.output(pod, cfg, "loop", `dd if=/dev/vol of=/dev/null bs=1 count=0 2>/dev/null && echo read=ok; (dd if=/dev/null of=/dev/vol conv=notrunc) 2>/dev/null && echo writable || echo readonly`, func(c *cri.ContainerConfig) {
		c.Devices = []*cri.Device{{HostPath: blockDevice(t), ContainerPath: "/dev/vol", Permissions: "r"}}
	})
	if want := "read=ok\nreadonly\n"; out != want {
		t.Errorf("container says %q, want %q", out, want)
	}
	// The same device where it was not given: its node can be made, and is not opened.
	var st unix.Stat_t
	if err := unix.Stat(blockDevice(t), &st); err != nil {
		t.Fatal(err)
	}
	out = n.output(pod, cfg, "none", fmt.Sprintf(`for d in "b %d %d" "c 1 1" "c 1 2" "c 1 11" "c 10 200"; do
	mknod /tmp/dev $d && (exec 3</tmp/dev) 2>&1 | grep -q "not permitted" && echo refused; rm /tmp/dev; done`, unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if want := strings.Repeat("refused\n", 4); !strings.HasPrefix(out, want) {
		t.Errorf("devices that were not given: %q", out)
	}
}

// blockDevice finds any block device of the node.
func blockDevice(t *testing.T) string {
	t.Helper()
	list, err := container.NodeDevices()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.Type == "b" {
			return d.Path
		}
	}
	t.Skip("the node has no block device")
	return ""
}

func TestDeclaredVolumes(t *testing.T) {
	n := newNode(t)
	const img = "volumes:1"
	if _, err := n.store.Build(img, busyboxRoot(t), image.BuildOptions{Volumes: []string{"/etc", "/new/place", "/given"}}); err != nil {
		t.Fatal(err)
	}
	pod, cfg := n.pod("volumes")
	given := filepath.Join(n.base, "given")
	writeFile(t, filepath.Join(given, "f"), "from the pod")
	out := n.output(pod, cfg, "main", `touch /root-file 2>/dev/null || echo root=ro
echo x > /new/place/x && echo y > /etc/y && echo volumes=rw; grep -c keeper /etc/passwd; cat /given/f`, func(c *cri.ContainerConfig) {
		c.Image.Image = img
		c.Linux.SecurityContext.ReadonlyRootfs = true
		c.Mounts = []*cri.Mount{{ContainerPath: "/given", HostPath: given}}
	})
	if want := "root=ro\nvolumes=rw\n1\nfrom the pod"; out != want {
		t.Errorf("container says %q, want %q", out, want)
	}
}

func TestStartErrors(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("bad")
	tests := []struct {
		name    string
		command []string
		code    int32
		says    string
	}{
		{"missing", []string{"/no/such/file"}, 127, "no such file"},
		{"notexec", []string{"/etc/passwd"}, 126, "permission denied"},
		{"path", []string{"nosuchcommand"}, 127, "executable file not found"},
	}
	for _, tt := range tests {
		id := n.sh(pod, cfg, tt.name, "", func(c *cri.ContainerConfig) { c.Command = tt.command })
		_, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: id})
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if st := n.status(id); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != tt.code || st.Reason != "StartError" {
			t.Errorf("%s: %s %d %s", tt.name, st.State, st.ExitCode, st.Reason)
		}
	}
	_, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: cfg, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "x"}, Image: &cri.ImageSpec{Image: "nosuchimage"},
	}})
	if status.Code(err) != codes.NotFound {
		t.Errorf("missing image: %v", err)
	}
	_, err = n.RunPodSandbox(n.ctx(), &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "n", Uid: "u", Namespace: "d"},
	}})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "network not ready") {
		t.Errorf("no pod CIDR yet: %v", err)
	}
	_, err = n.RunPodSandbox(n.ctx(), &cri.RunPodSandboxRequest{Config: cfg})
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("same pod again: %v", err)
	}
	bad := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "s", Uid: "s"}, Linux: &cri.LinuxPodSandboxConfig{
		Sysctls: map[string]string{"vm.swappiness": "1"}, SecurityContext: cfg.Linux.SecurityContext,
	}}
	if _, err = n.RunPodSandbox(n.ctx(), &cri.RunPodSandboxRequest{Config: bad}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("node sysctl: %v", err)
	}
}

// TestNobodyElseReachesContainerFiles: what is set-user-ID in a container must
// not be so for the node's users.
func TestNobodyElseReachesContainerFiles(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("closed")
	n.startCtr(n.sh(pod, cfg, "main", "cp /bin/busybox /tmp/su; chmod 4755 /tmp/su; exec sleep 1000"))
	for _, dir := range []string{"images/layers", "images/blobs", "images/tmp", "state/containers", "state/sandboxes"} {
		st, err := os.Stat(filepath.Join(n.base, dir))
		if err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v", dir, st.Mode(), err)
		}
	}
	// Also where the directories above were open.
	if err := errors.Join(os.Chmod(n.base, 0o755), os.Chmod(filepath.Join(n.base, "state"), 0o755), os.Chmod(filepath.Join(n.base, "images"), 0o755)); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(n.base, "state/containers/*/*"))
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	layers, err := filepath.Glob(filepath.Join(n.base, "images/layers/*/fs/bin/busybox"))
	if err != nil || len(layers) == 0 {
		t.Fatal(layers, err)
	}
	cmd := exec.Command("ls", append([]string{"-d"}, append(found, layers...)...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.Output(); err == nil || len(out) > 0 {
		t.Errorf("another user sees %q, %v", out, err)
	}
	// A container's own unprivileged user must still be able to work.
	out := n.output(pod, cfg, "user", "cat /etc/hostname && ls /tmp && echo fine", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1234}
	})
	if !strings.HasSuffix(out, "fine\n") {
		t.Errorf("container says %q", out)
	}
}
