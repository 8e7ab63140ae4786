package runtime

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCommandsThatDoNotStart: a container that gets next to nothing of the processor is not filled with commands that
// nobody waits for, and takes commands again when it has room.
func TestCommandsThatDoNotStart(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("starved")
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	quota := func(micros int64) {
		t.Helper()
		limits := &cri.LinuxContainerResources{CpuPeriod: 1_000_000, CpuQuota: micros}
		if _, err := n.UpdateContainerResources(n.ctx(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: limits}); err != nil {
			t.Fatal(err)
		}
	}
	try := func() error {
		_, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 1})
		return err
	}
	quota(1000) // a millisecond of each second: far less than starting a command takes
	for range 3 {
		if err := try(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a command that cannot start in time: %v", err)
		}
	}
	if got := starting(t, n.cmd.Process.Pid); got != 1 {
		t.Errorf("%d commands are being started, want the first alone", got)
	}
	quota(-1)
	n.until("commands start when there is room again", func() bool { return try() == nil })
	n.until("what was given up has gone", func() bool { return starting(t, n.cmd.Process.Pid) == 0 })
}

// starting counts the processes of a runtime that are on their way to become a command.
func starting(t *testing.T, runtime int) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // no process, or no more
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if fields[1] == strconv.Itoa(runtime) && strings.HasSuffix(string(line), "\x00init\x00") {
			n++
		}
	}
	return n
}
