package runtime

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// memoryBudget is what a runtime may hold of its own, in KiB, with a few dozen containers.
const memoryBudget = 20 << 10

// TestMemoryBudget counts anonymous memory: the pages of the binary are shared
// by all processes that run it, and the kernel drops them when it needs to.
func TestMemoryBudget(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has a budget of its own")
	}
	n := newNode(t)
	pod, cfg := n.pod("budget")
	before, threads := n.usage()
	const count = 25
	for i := range count {
		n.startCtr(n.sh(pod, cfg, fmt.Sprintf("c%d", i), "echo up; exec sleep 1000"))
	}
	after, now := n.usage()
	t.Logf("%d KiB, %d threads; with %d containers %d KiB, %d threads", before, threads, count, after, now)
	if after > memoryBudget {
		t.Errorf("%d KiB with %d containers, the budget is %d", after, count, memoryBudget)
	}
	if now > threads+10 {
		t.Errorf("%d threads with %d containers, %d before: something holds a thread for each", now, count, threads)
	}
}

// usage is the runtime's anonymous memory in KiB and its threads.
func (n *node) usage() (kib, threads int) {
	n.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		switch f[0] {
		case "RssAnon:":
			kib, _ = strconv.Atoi(f[1])
		case "Threads:":
			threads, _ = strconv.Atoi(f[1])
		}
	}
	return kib, threads
}
