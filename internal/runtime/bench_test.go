package runtime

import (
	"fmt"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkPodStart measures from RunPodSandbox to a running container, with a
// network of its own, and takes the pod away outside the clock.
func BenchmarkPodStart(b *testing.B) { benchPodStart(b, podNetwork) }

// BenchmarkPodStartOwnUsers is BenchmarkPodStart of pods with users of their own.
func BenchmarkPodStartOwnUsers(b *testing.B) { benchPodStart(b, ownUsers) }

func benchPodStart(b *testing.B, users func(*cri.PodSandboxConfig)) {
	n := newNode(b)
	n.withNetwork()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		pod, cfg := n.pod(fmt.Sprintf("bench-%d", i), users)
		id := n.sh(pod, cfg, "main", "exec sleep 1000")
		n.startCtr(id)
		b.StopTimer()
		if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkContainerStart measures StartContainer alone.
func BenchmarkContainerStart(b *testing.B) {
	n := newNode(b)
	pod, cfg := n.pod("bench")
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		id := n.sh(pod, cfg, fmt.Sprintf("c%d", i), "exec sleep 1000")
		b.StartTimer()
		n.startCtr(id)
		b.StopTimer()
		if _, err := n.RemoveContainer(n.ctx(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkSandbox measures RunPodSandbox with a network of its own.
func BenchmarkSandbox(b *testing.B) {
	n := newNode(b)
	n.withNetwork()
	for i := 0; b.Loop(); i++ {
		pod, _ := n.pod(fmt.Sprintf("bench-%d", i), podNetwork)
		b.StopTimer()
		if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkExecSync measures one command in a running container, as an exec probe runs it.
func BenchmarkExecSync(b *testing.B) {
	n := newNode(b)
	pod, cfg := n.pod("bench")
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	for b.Loop() {
		if _, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}}); err != nil {
			b.Fatal(err)
		}
	}
}
