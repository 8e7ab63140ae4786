package runtime

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCommandsThatDoNotStart: a container that gets nothing of the processor is not filled with commands that nobody waits
// for, and takes commands again when it has room.
func TestCommandsThatDoNotStart(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("starved")
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	try := func() error {
		_, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 1})
		return err
	}
	n.freeze(id, true)
	defer n.freeze(id, false)
	for range 3 {
		if err := try(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a command that cannot start in time: %v", err)
		}
	}
	if got := starting(t, n.cmd.Process.Pid); got != 1 {
		t.Errorf("%d commands are being started, want the first alone", got)
	}
	n.freeze(id, false)
	n.until("commands start when there is room again", func() bool { return try() == nil })
	n.until("what was given up has gone", func() bool { return starting(t, n.cmd.Process.Pid) == 0 })
}

// freeze has the processes of a container get nothing of the processor, or go on: also those that come.
func (n *node) freeze(id string, frozen bool) {
	n.t.Helper()
	for _, dir := range n.groups() {
		for file, words := range map[string][2]string{"freezer.state": {"THAWED", "FROZEN"}, "cgroup.freeze": {"0", "1"}} {
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil || filepath.Base(dir) != id {
				continue
			}
			word := words[0]
			if frozen {
				word = words[1]
			}
			if err := os.WriteFile(filepath.Join(dir, file), []byte(word), 0); err != nil {
				n.t.Fatal(err)
			}
			return
		}
	}
	n.t.Fatal("the container's cgroup cannot be frozen")
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
		if fields[1] == strconv.Itoa(runtime) && string(line) == "coracle-init\x00" {
			n++
		}
	}
	return n
}
