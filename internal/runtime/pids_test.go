package runtime

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
)

func TestLimitPids(t *testing.T) {
	for _, tt := range []struct {
		name                string
		room, reserved, pod int64
		want                pidLimits
		refused             string
	}{
		{name: "an old default machine", room: 32768, want: pidLimits{32768 - 3276, 4096}},
		{name: "a large machine", room: 4 << 20, want: pidLimits{4<<20 - 8192, 4096}},
		{name: "a small container", room: 1500, want: pidLimits{750, 187}},
		{name: "next to nothing", room: 3, want: pidLimits{2, 1}},
		{name: "reserved", room: 32768, reserved: 10000, want: pidLimits{22768, 4096}},
		{name: "all reserved", room: 1000, reserved: 1000, refused: "all the machine has"},
		{name: "reserved below zero", room: 1000, reserved: -1, refused: "reserved pids -1"},
		{name: "a pod's own", room: 32768, pod: 50, want: pidLimits{29492, 50}},
		{name: "none", room: 32768, pod: cgroup.Unlimited, want: pidLimits{29492, cgroup.Unlimited}},
		{name: "nonsense", room: 32768, pod: -2, refused: "pod pids limit -2"},
	} {
		got, err := limitPids(tt.room, tt.reserved, tt.pod)
		if tt.refused != "" {
			if err == nil || !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.refused)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

// forkingScript starts processes without end, were it not bounded itself: 3 times 100. What is refused does not
// matter to it, and what it has started sleeps.
const forkingScript = `for k in 1 2 3; do sh -c 'i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done'; done 2>/dev/null
sleep 1000 &
exec sleep 1000`

// TestForkBomb: a pod that forks without end meets its limit, and nobody else does.
func TestForkBomb(t *testing.T) {
	n := newNode(t)
	const limit = "40"
	bomb, bombCfg := n.pod("bomb", func(c *cri.PodSandboxConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{Unified: map[string]string{cgroup.PidsMax: limit}}
	})
	other, otherCfg := n.pod("other")
	room := must[*cgroup.Group](t)(cgroup.Open("/coracle-" + n.id)).PidsRoom()
	want, err := limitPids(room, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for path, limit := range map[string]int64{"": want.node, other: want.pod, bomb: 40} {
		left, got := must[*cgroup.Group](t)(cgroup.Open(filepath.Join("/coracle-"+n.id, path))).PidsLeft()
		if got != limit || left <= 0 {
			t.Errorf("group %q: %d left of %d, want a limit of %d", path, left, got, limit)
		}
	}
	forking := n.sh(bomb, bombCfg, "main", forkingScript)
	n.startCtr(forking)
	group := must[*cgroup.Group](t)(cgroup.Open(filepath.Join("/coracle-"+n.id, bomb)))
	n.until("the bomb fills its pod", func() bool {
		left, _ := group.PidsLeft()
		return left == 0
	})

	began := time.Now()
	_, err = n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: forking, Cmd: []string{"true"}})
	took := time.Since(began)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "pod default/bomb has 40 of at most 40 processes and threads (pids limit)") {
		t.Errorf("exec in the bomb's pod: %v", err)
	}
	// A further container of that pod says so as well.
	second := n.sh(bomb, bombCfg, "second", "true")
	if _, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: second}); err == nil || !strings.Contains(err.Error(), "pids limit") {
		t.Errorf("start in the bomb's pod: %v", err)
	}
	calm := n.sh(other, otherCfg, "main", "exec sleep 1000")
	n.startCtr(calm)
	if r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: calm, Cmd: []string{"echo", "well"}}); err != nil || string(r.Stdout) != "well\n" {
		t.Errorf("exec in another pod: %v %v", r, err)
	}
	removal := time.Now()
	if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: bomb}); err != nil {
		t.Errorf("remove the bomb: %v", err)
	}
	t.Logf("exec refused after %s, pod removed in %s", took, time.Since(removal))
	if group.Exists() {
		t.Error("the bomb's cgroup is left")
	}
}

// must turns a call that cannot fail here into its value.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestExecWithoutRoom: with one pid left, what sets an exec up in the container fails or hangs half-way.
func TestExecWithoutRoom(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("tight", func(c *cri.PodSandboxConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{Unified: map[string]string{cgroup.PidsMax: "30"}}
	})
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	group := must[*cgroup.Group](t)(cgroup.Open(filepath.Join("/coracle-"+n.id, pod)))
	for room := range int64(4) {
		if err := group.LimitPids(1 + room); err != nil {
			t.Fatal(err)
		}
		// Were the time that the call allows not kept, its bound here would end it, with another word.
		r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 10})
		if err == nil && r.ExitCode == 0 {
			t.Logf("room for %d is enough", room)
			continue
		}
		if !strings.Contains(status.Convert(err).Message(), "pids limit") {
			t.Errorf("room for %d: %v %v", room, r, err)
		}
	}
	if err := group.LimitPids(30); err != nil {
		t.Fatal(err)
	}
	if r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", "well"}}); err != nil || string(r.Stdout) != "well\n" {
		t.Errorf("with room again: %v %v", r, err)
	}
}

// TestPidsRefusedIsTold: a container that ends in failure for want of processes says why.
func TestPidsRefusedIsTold(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("told")
	id := n.sh(pod, cfg, "main", `i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; exit 0`, func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{Unified: map[string]string{cgroup.PidsMax: "30"}}
	})
	n.startCtr(id)
	if st := n.finished(id); st.ExitCode == 0 || !strings.Contains(st.Message, "pids limit") {
		t.Errorf("exit code %d, reason %s, message %q", st.ExitCode, st.Reason, st.Message)
	}
	for name, r := range map[string]*cri.LinuxContainerResources{
		"zero": {Unified: map[string]string{cgroup.PidsMax: "0"}}, "word": {Unified: map[string]string{cgroup.PidsMax: "many"}},
		"v2 only": {Unified: map[string]string{"memory.high": "1000000"}},
	} {
		if name == "v2 only" && cgroup.V2() {
			continue
		}
		bad := &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: busybox},
			Linux: &cri.LinuxContainerConfig{Resources: r},
		}
		_, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: bad, SandboxConfig: cfg})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}
