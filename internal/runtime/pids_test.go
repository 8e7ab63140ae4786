package runtime

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
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

// full is what forkingScript prints last.
const full = "full"

// forkingScript starts processes without end, were it not bounded itself: 3 times 100, each by a shell that ends when it
// is refused one. What it has started sleeps, in the room that is left too, and then it says so and forks no more. Before
// that it dies if anything else takes the room it has just found.
const forkingScript = `for k in 1 2 3; do sh -c 'i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done'; done 2>/dev/null
sleep 1000 &
echo ` + full + `
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
	n.until("the bomb has filled its pod and forks no more", func() bool {
		left, _ := group.PidsLeft()
		return left == 0 && strings.Contains(logText(t, filepath.Join(bombCfg.LogDirectory, "main.log")), full)
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

// TestPidsCulprit: of the groups around a container, the innermost first, the one that refused it a process is named.
func TestPidsCulprit(t *testing.T) {
	const none = cgroup.Unlimited
	type use = cgroup.PidsUse
	level := func(limit, now, before, after int64) pidsLevel {
		return pidsLevel{before: use{Limit: limit, Refused: before, Known: true}, after: use{Limit: limit, Now: now, Refused: after, Known: true}}
	}
	gone := func(limit int64) pidsLevel { return pidsLevel{after: use{Limit: limit}} }
	for _, tt := range []struct {
		name   string
		levels []pidsLevel
		forked bool
		want   int
	}{
		{name: "nothing is known", want: -1},
		{name: "room everywhere", levels: []pidsLevel{level(none, 3, 0, 0), level(40, 3, 0, 0), level(100, 3, 0, 0)}, want: -1},
		{name: "full, but nothing was refused", levels: []pidsLevel{level(none, 40, 7, 7), level(40, 40, 0, 0), level(100, 40, 0, 0)}, want: -1},
		{name: "counted where it was to be", levels: []pidsLevel{level(none, 40, 7, 8), level(40, 40, 0, 0), level(100, 40, 0, 0)}, want: 1},
		{name: "room has come back", levels: []pidsLevel{level(none, 2, 7, 8), level(40, 2, 0, 0), level(100, 2, 0, 0)}, want: 1},
		{name: "counted where the limit is", levels: []pidsLevel{level(9, 5, 1, 1), level(40, 39, 0, 2), level(100, 39, 0, 2)}, want: 1},
		{name: "counted there and above", levels: []pidsLevel{level(9, 9, 1, 2), level(40, 9, 0, 1), level(100, 9, 0, 1)}, want: 0},
		{name: "the node's", levels: []pidsLevel{level(none, 9, 0, 1), level(40, 9, 0, 0), level(100, 99, 0, 0)}, want: 2},
		{name: "a limit above all of ours", levels: []pidsLevel{level(none, 9, 0, 1), level(none, 9, 0, 0), level(none, 99, 0, 0)}, want: -1},
		{name: "an older refusal", levels: []pidsLevel{level(9, 1, 5, 5), level(40, 39, 5, 5), level(100, 39, 5, 5)}, want: -1},
		{name: "the container's is gone, with room", levels: []pidsLevel{gone(none), level(40, 3, 0, 0), level(100, 3, 0, 0)}, want: -1},
		{name: "gone, and little room", levels: []pidsLevel{gone(none), level(40, 30, 0, 0), level(100, 30, 0, 0)}, want: 1},
		{name: "gone, and its own limit small", levels: []pidsLevel{gone(5), level(40, 3, 0, 0), level(100, 3, 0, 0)}, want: 0},
		{name: "gone, counted above, its own limit small", levels: []pidsLevel{gone(5), level(40, 3, 0, 1), level(100, 3, 0, 1)}, want: 0},
		{name: "gone, and it says a fork was refused", levels: []pidsLevel{gone(none), level(40, 3, 0, 0), level(100, 3, 0, 0)}, forked: true, want: 1},
	} {
		if got := pidsCulprit(tt.levels, tt.forked); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestPidsExhaustedIsTold: the words name the group, what it has now and, when that is less than its limit, what it had no
// room for; a command that is none at all is never taken for one that had no room.
func TestPidsExhaustedIsTold(t *testing.T) {
	use := func(limit, now, refused int64) cgroup.PidsUse {
		return cgroup.PidsUse{Limit: limit, Now: now, Refused: refused, Known: true}
	}
	for want, l := range map[string]pidsLevel{
		"pod a/b has 40 of at most 40 processes and threads (pids limit): end some": {before: use(40, 40, 2), after: use(40, 40, 4)},
		"pod a/b has 3 of at most 40 processes and threads (pids limit) and had no room for 2 more a moment ago: end some": {
			before: use(40, 3, 2), after: use(40, 3, 4),
		},
		"pod a/b may have at most 5 processes and threads (pids limit), too few for its start": {after: cgroup.PidsUse{Limit: 5}},
	} {
		l.whose = "pod a/b"
		if err := l.exhausted(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	missing := &container.StartError{Code: 127, Err: errors.New("exec: resource temporarily unavailable: executable file not found")}
	if err := pidsShort([]pidsLevel{{before: use(1, 1, 0)}}, missing); err != nil {
		t.Errorf("a command that is not there: %v", err)
	}
}

// TestRefusedThenRoom: a process was refused, and by the time one looks why, there is room again.
func TestRefusedThenRoom(t *testing.T) {
	requireRoot(t)
	pod := "/coracle-t" + newID()[:6]
	levels := []pidsLevel{{path: filepath.Join(pod, "main"), whose: "container main of pod a/b"}, {path: pod, whose: "pod a/b"}}
	groups := make([]*cgroup.Group, len(levels))
	for i := len(levels) - 1; i >= 0; i-- {
		groups[i] = must[*cgroup.Group](t)(cgroup.Open(levels[i].path))
		if err := groups[i].Create(nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := groups[i].Remove(); err != nil {
				t.Error(err)
			}
		})
	}
	shell := exec.Command("/bin/sh", "-c", "read go; true & wait")
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer shell.Wait() // has ended, where the test has not failed before
	defer in.Close()
	if err := errors.Join(groups[0].Add(shell.Process.Pid), groups[1].LimitPids(1)); err != nil {
		t.Fatal(err)
	}
	for i := range levels {
		levels[i].before = groups[i].PidsUse()
	}
	if err := pidsShort(levels, errors.New("failed for another reason")); err != nil {
		t.Errorf("before: %v", err)
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	if err := shell.Wait(); err == nil {
		t.Fatal("the shell forked beyond its limit")
	}
	if err := groups[1].LimitPids(100); err != nil {
		t.Fatal(err)
	}
	want := "pod a/b has 0 of at most 100 processes and threads (pids limit)"
	if err := pidsShort(levels, errors.New("procReady not received")); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	if err := pidsFull(levels[1:]); err == nil || !strings.Contains(err.Error(), "has 1 of at most 1") {
		t.Errorf("full before: %v", err)
	}
}

// TestExecInDyingContainer: a command that cannot start because its container ends says that.
func TestExecInDyingContainer(t *testing.T) {
	gone := make(chan struct{})
	close(gone)
	c := &ctr{gone: gone, ctrIdentity: ctrIdentity{ID: "c", Cgroup: "/coracle-none-such/pod/c"}}
	c.state = ctrState{Phase: phaseExited, Reason: reasonError, ExitCode: 2, Message: "for want of processes"}
	levels := []pidsLevel{
		{path: c.Cgroup, before: cgroup.PidsUse{Limit: 4, Now: 4, Known: true}},
		{path: "/coracle-none-such/pod", before: cgroup.PidsUse{Limit: 4, Now: 4, Known: true}},
	}
	err := execFailed(c, levels, errors.New("procReady not received"))
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "Error, exit code 2 for want of processes") {
		t.Error(err)
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
