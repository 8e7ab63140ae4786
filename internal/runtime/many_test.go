package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestManyPodsAtOnce starts, stops and removes pods side by side, as the
// agent's workers do, while somebody lists.
func TestManyPodsAtOnce(t *testing.T) {
	n := newNode(t)
	n.withNetwork()
	var mu sync.Mutex
	ips := map[string]string{}
	var all sync.WaitGroup
	for i := range 10 {
		name := fmt.Sprintf("pod-%d", i)
		all.Go(func() {
			if err := n.lifeOf(name, func(ip string) {
				mu.Lock()
				defer mu.Unlock()
				if other := ips[ip]; other != "" {
					t.Errorf("%s has the address %s of %s", name, ip, other)
				}
				ips[ip] = name
			}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Go(func() {
		for range 50 {
			if _, err := n.ListContainers(n.ctx(), &cri.ListContainersRequest{}); err != nil {
				t.Error(err)
			}
			if _, err := n.ListPodSandboxStats(n.ctx(), &cri.ListPodSandboxStatsRequest{}); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	if len(ips) != 10 {
		t.Errorf("addresses: %v", ips)
	}
	state := filepath.Join(n.base, "state")
	// Where libcontainer's state is depends on where the test binary lies.
	libcontainer := readFile(filepath.Join(state, "libcontainer.path"))
	for _, dir := range []string{filepath.Join(state, "sandboxes"), filepath.Join(state, "containers"), libcontainer} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v %v", dir, left, err)
		}
	}
}

// lifeOf runs a pod of two containers, stops one and removes all.
func (n *node) lifeOf(name string, address func(string)) error {
	cfg := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"}, Hostname: name,
		LogDirectory: filepath.Join(n.base, "logs", name),
		Linux:        &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
	p, err := n.RunPodSandbox(n.ctx(), &cri.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		return err
	}
	st, err := n.PodSandboxStatus(n.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: p.PodSandboxId})
	if err != nil {
		return err
	}
	address(st.Status.Network.Ip)
	var ids []string
	for _, c := range []string{"a", "b"} {
		r, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: cfg, Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: c}, Image: &cri.ImageSpec{Image: busybox}, Command: []string{"sleep", "1000"}, LogPath: c + ".log",
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
		}})
		if err != nil {
			return err
		}
		if _, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
			return err
		}
		ids = append(ids, r.ContainerId)
	}
	if _, err := n.StopContainer(n.ctx(), &cri.StopContainerRequest{ContainerId: ids[0]}); err != nil {
		return err
	}
	// Stopping and removing from two sides at once, as after a restart of the agent.
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: p.PodSandboxId})
			errs <- err
		}()
	}
	if err := <-errs; err != nil {
		return err
	}
	return <-errs
}
