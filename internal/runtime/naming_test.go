package runtime

import (
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDirectoryOfAnyName: a runtime may live in a directory whose name means something to mount options, URLs or shells,
// and is there again after its own death.
func TestDirectoryOfAnyName(t *testing.T) {
	n := newNodeIn(t, `a:b,c\d=e %41"'$*`)
	n.withNetwork()
	pod, cfg := n.pod("odd", podNetwork)
	out := n.output(pod, cfg, "writes", "echo x > /written; hostname; cat /written /etc/hostname; grep nameserver /etc/resolv.conf")
	if want := "odd\nx\nodd\nnameserver 10.96.0.10\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	id := n.sh(pod, cfg, "stays", "echo x > /written; exec sleep 1000")
	n.startCtr(id)
	n.kill()
	n.start()
	r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"grep", "-c", "^overlay / ", "/proc/mounts"}})
	if err != nil || strings.TrimSpace(string(r.Stdout)) != "1" {
		t.Errorf("%v %v", r, err)
	}
}
