package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// breakIn is what a root of its own tries against the node, each line with what it says when it succeeds.
const breakIn = `
say() { "$@" 2>/dev/null && echo "$1 succeeded: $*"; }
say mknod /tmp/dev b 8 0
say mknod /dev/mem2 c 1 1
say mount -o remount,rw /sys/fs/cgroup/pids
say cat /plain/secret
say sh -c 'echo 1 >/proc/sys/vm/drop_caches'
say sh -c 'echo 5 >/proc/sys/kernel/panic'
say sh -c 'echo c >/proc/sysrq-trigger'
say sh -c 'echo x >/plain/f'
say sh -c 'cat /proc/kcore | head -c 1 | grep -q .'
say sh -c 'echo 0 0 4294967295 >/proc/self/uid_map'
say mount -t ext4 /dev/vol /tmp
say sh -c 'dd if=/dev/zero of=/dev/vol count=0 conv=notrunc'
say kill -0 $HOST
say nsenter -t 1 -m -u -n -i -p --root=/proc/1/root test -e /work
say renice -n -19 $$
say chroot /proc/1/root/../../../.. sh -c 'test -e /work'
ip link add br7 type bridge && ip link del br7 && echo network=own
mkdir -p /mnt && mount -t tmpfs none /mnt && echo mounts=own
hostname other && hostname
echo done`

// TestUsersBreakIn: what a root with every capability and no seccomp profile has in its own namespaces it has nowhere else.
func TestUsersBreakIn(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.apart("breaking", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	host := filepath.Join(n.base, "host")
	writeFile(t, filepath.Join(host, "secret"), "of the node")
	writeFile(t, filepath.Join(host, "f"), "")
	for path, mode := range map[string]uint32{host: 0o755, filepath.Join(host, "secret"): 0o600, filepath.Join(host, "f"): 0o644} {
		if err := unix.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	before := tree(t, host)
	all := func(c *cri.ContainerConfig) {
		sc := c.Linux.SecurityContext
		sc.Capabilities = &cri.Capability{AddCapabilities: []string{"ALL"}}
		sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
		c.Envs = []*cri.KeyValue{{Key: "HOST", Value: []byte(fmt.Sprint(n.cmd.Process.Pid))}}
		c.Mounts = []*cri.Mount{{ContainerPath: "/plain", HostPath: host}}
		c.Devices = []*cri.Device{{HostPath: blockDevice(t), ContainerPath: "/dev/vol", Permissions: "r"}}
	}
	for name, change := range map[string]func(*cri.ContainerConfig){
		"capable":    all,
		"privileged": func(c *cri.ContainerConfig) { all(c); c.Linux.SecurityContext.Privileged = true },
	} {
		out := n.output(pod, cfg, name, breakIn, change)
		if strings.Contains(out, "succeeded") {
			t.Errorf("%s: %s", name, out)
		}
		wants(t, out, "network=own", "mounts=own", "other", "done")
	}
	if now, err := os.Hostname(); err != nil || now != name {
		t.Errorf("the node is called %q by now, %v", now, err)
	}
	if now := tree(t, host); now != before {
		t.Errorf("the node's files\n%s\nare\n%s", before, now)
	}
}
