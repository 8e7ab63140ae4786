package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pod runs a sandbox; without an option it has its own IPC and UTS namespaces and the node's network.
func (n *node) pod(name string, opts ...func(*cri.PodSandboxConfig)) (string, *cri.PodSandboxConfig) {
	n.t.Helper()
	cfg := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "default"},
		Hostname:     name,
		LogDirectory: filepath.Join(n.base, "logs", name),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Labels:       map[string]string{"app": name},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
	for _, o := range opts {
		o(cfg)
	}
	r, err := n.RunPodSandbox(n.ctx(), &cri.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		n.t.Fatalf("RunPodSandbox: %v", err)
	}
	return r.PodSandboxId, cfg
}

// podNetwork gives the sandbox a network of its own.
func podNetwork(cfg *cri.PodSandboxConfig) {
	cfg.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_POD
}

func (n *node) withNetwork() {
	n.t.Helper()
	_, err := n.UpdateRuntimeConfig(n.ctx(), &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{
		NetworkConfig: &cri.NetworkConfig{PodCidr: testCIDR(n.id).String()},
	}})
	if err != nil {
		n.t.Fatal(err)
	}
}

// sh makes a container that runs a shell script.
func (n *node) sh(pod string, podCfg *cri.PodSandboxConfig, name, script string, opts ...func(*cri.ContainerConfig)) string {
	n.t.Helper()
	cfg := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: busybox},
		Command:  []string{"/bin/sh", "-c", script},
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{
			SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: podCfg.Linux.SecurityContext.NamespaceOptions},
		},
	}
	for _, o := range opts {
		o(cfg)
	}
	r, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: cfg, SandboxConfig: podCfg})
	if err != nil {
		n.t.Fatalf("CreateContainer: %v", err)
	}
	return r.ContainerId
}

func (n *node) startCtr(id string) {
	n.t.Helper()
	if _, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		n.t.Fatalf("StartContainer: %v", err)
	}
}

func (n *node) status(id string) *cri.ContainerStatus {
	n.t.Helper()
	r, err := n.ContainerStatus(n.ctx(), &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		n.t.Fatalf("ContainerStatus: %v", err)
	}
	return r.Status
}

// until waits for a condition, looking again every few milliseconds.
func (n *node) until(what string, cond func() bool) {
	n.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(wait)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			n.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// finished waits for a container's end.
func (n *node) finished(id string) *cri.ContainerStatus {
	n.t.Helper()
	var st *cri.ContainerStatus
	n.until("container ends", func() bool {
		st = n.status(id)
		return st.State == cri.ContainerState_CONTAINER_EXITED
	})
	return st
}

// logText is what a container printed, its records joined again.
func logText(t testing.TB, path string) string {
	t.Helper()
	var b strings.Builder
	rotated, err := filepath.Glob(path + ".*") // in the order of their times
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(rotated, path) {
		raw, err := os.ReadFile(p)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
			if len(f) != 4 {
				t.Fatalf("not a CRI record: %q", line)
			}
			if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
				t.Fatalf("record %q: %v", line, err)
			}
			b.WriteString(f[3])
			if f[2] == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

// output runs a script in a container of its own and returns what it printed.
func (n *node) output(pod string, podCfg *cri.PodSandboxConfig, name, script string, opts ...func(*cri.ContainerConfig)) string {
	n.t.Helper()
	id := n.sh(pod, podCfg, name, script, opts...)
	n.startCtr(id)
	n.finished(id)
	return logText(n.t, filepath.Join(podCfg.LogDirectory, name+".log"))
}
