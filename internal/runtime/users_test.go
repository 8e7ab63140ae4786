package runtime

import (
	"fmt"
	"os"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// usersFirst and usersCount are the ids of the tests' pods on the node.
const (
	usersFirst = 1_900_000_000 &^ 0xffff
	usersCount = 1 << 16
)

var ownIDs = []*cri.IDMapping{{ContainerId: 0, HostId: usersFirst, Length: usersCount}}

// ownUsers gives a sandbox users and a network of its own.
func ownUsers(cfg *cri.PodSandboxConfig) {
	podNetwork(cfg)
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ownIDs, Gids: ownIDs}
}

// mapped has files shown to the pod's users under the ids that they have on disk.
func mapped(m *cri.Mount) *cri.Mount {
	m.UidMappings, m.GidMappings = ownIDs, ownIDs
	return m
}

// hostIDs are the user and group of a process on the node.
func hostIDs(t *testing.T, pid string) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 2 && (f[0] == "Uid:" || f[0] == "Gid:") {
			ids = append(ids, f[2])
		}
	}
	return strings.Join(ids, ":")
}

// pidOf is the process of a container.
func (n *node) pidOf(id string) string {
	n.t.Helper()
	r, err := n.ContainerStatus(n.ctx(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Info["pid"]
}

// TestUsersOfItsOwn: a pod's root is root inside and nobody outside, and what containers find is as in any other pod.
func TestUsersOfItsOwn(t *testing.T) {
	n := newNode(t)
	n.withNetwork()
	pod, cfg := n.pod("apart", ownUsers)
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	if got, want := hostIDs(t, n.pidOf(id)), fmt.Sprintf("%d:%d", usersFirst, usersFirst); got != want {
		t.Errorf("on the node the pod's root is %s, want %s", got, want)
	}
	out := n.output(pod, cfg, "look", "cat /proc/self/uid_map; stat -c %u:%g /bin/busybox /etc/hostname /dev/shm /proc /sys /; "+inspect)
	t.Log(out)
}
