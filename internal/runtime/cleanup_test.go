package runtime

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/filetree"
	netpod "coracle/internal/network/pod"
	"coracle/internal/runtime/cgroup"
)

func (n *node) cleanUp() {
	if n.cmd != nil && n.cmd.ProcessState == nil {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		list, err := n.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err == nil {
			for _, p := range list.Items {
				if _, err := n.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
					n.t.Errorf("clean up sandbox: %v", err)
				}
			}
		}
		n.noZombies()
		n.conn.Close()
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
		if err := n.cmd.Wait(); err != nil {
			n.t.Errorf("the runtime did not end well: %v", err) // also what the race detector makes of a race
		}
	}
	n.leftovers()
	if err := filetree.Dismantle(filepath.Join("/run/coracle", n.id)); err != nil {
		n.t.Errorf("clean up: %v", err)
	}
	if err := filetree.Dismantle(n.base); err != nil {
		n.t.Errorf("clean up: %v", err)
	}
}

// leftovers fails the test for every mount, cgroup or bridge that is left, and removes it.
func (n *node) leftovers() {
	roots := (&service{cfg: Config{ID: n.id}}).rootsDir()
	left, err := filetree.MountsBelow(n.base)
	if err != nil {
		n.t.Error(err)
	}
	if entries, err := os.ReadDir(roots); err == nil && len(entries) > 0 {
		n.t.Errorf("places of root file systems are left: %v", entries)
	}
	if err := filetree.Dismantle(roots); err != nil {
		n.t.Errorf("clean up: %v", err)
	}
	for _, point := range left {
		n.t.Errorf("left mounted: %s", point) // Dismantle unmounts it
	}
	group, err := cgroup.Open("/coracle-" + n.id)
	if err != nil {
		n.t.Error(err)
		return
	}
	if below, err := group.Children(); err != nil || len(below) > 0 {
		n.t.Errorf("cgroups are left below /coracle-%s: %v %v", n.id, below, err)
		pids, _ := group.Pids()
		for _, pid := range pids {
			n.t.Errorf("process %d is left", pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := group.Remove(); err != nil {
		n.t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(n.base, "state", "network.json")); err == nil {
		net, err := netpod.Open(netpod.Config{
			Bridge: "cor-" + n.id, NFTable: "coracle-pod-" + n.id, CIDR: testCIDR(n.id),
			ClusterCIDR: netip.MustParsePrefix("10.200.0.0/13"), StateDir: filepath.Join(n.base, "state", "network"),
		})
		if err != nil {
			n.t.Error(err)
		} else if err := net.Destroy(); err != nil {
			n.t.Error(err)
		}
	}
}
