package e2e

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the product may cost a machine. To raise a budget is a decision: its commit says what is gained by it.
const (
	// binarySize is that of the stripped, static binary, in bytes.
	binarySize = 100_000_000
	// initBytes and initAllocs are what the initialisation of packages allocates, in every process.
	initBytes, initAllocs = 9_300_000, 58_000
	// ownMemory is the anonymous memory of a server and of one node's agent and runtime, at rest, in KiB.
	ownMemory = 64 << 10
	// sharedMemory is their proportional set size: with it, their share of the binary's pages that are in memory.
	sharedMemory = 110 << 10
)

// TestBinaryBudgets: the binary grows, starts and is made of what it is by decision alone.
func TestBinaryBudgets(t *testing.T) {
	t.Parallel()
	if err := sources(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(built.binary)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > binarySize {
		t.Errorf("the binary has %d bytes, and may have %d", st.Size(), binarySize)
	}
	t.Run("modules", func(t *testing.T) {
		info, err := buildinfo.ReadFile(built.binary)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join("testdata", "modules.txt"))
		if err != nil {
			t.Fatal(err)
		}
		known := map[string]bool{}
		for _, path := range strings.Fields(string(raw)) {
			known[path] = true
		}
		for _, m := range info.Deps {
			if !known[m.Path] {
				t.Errorf("module %s is linked: weigh what it brings, and add it to testdata/modules.txt", m.Path)
			}
			delete(known, m.Path)
		}
		for path := range known {
			t.Errorf("module %s is not linked any more: take it out of testdata/modules.txt", path)
		}
	})
	t.Run("initialisation", func(t *testing.T) {
		cmd := exec.Command(built.binary, "--help")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var bytes, allocs int
		// init PACKAGE @1.2 ms, 0.3 ms clock, 4567 bytes, 89 allocs (package runtime, GODEBUG)
		for _, m := range regexp.MustCompile(`(?m)^init \S+ @.*, (\d+) bytes, (\d+) allocs$`).FindAllStringSubmatch(string(out), -1) {
			b, _ := strconv.Atoi(m[1])
			a, _ := strconv.Atoi(m[2])
			bytes, allocs = bytes+b, allocs+a
		}
		if allocs == 0 {
			t.Fatalf("no package tells of its initialisation:\n%s", out)
		}
		if bytes > initBytes || allocs > initAllocs {
			t.Errorf("packages are initialised with %d bytes in %d allocations, and may take %d in %d: GODEBUG=inittrace=1 tells which",
				bytes, allocs, initBytes, initAllocs)
		}
		t.Logf("%d bytes, %d allocations; the binary has %d bytes", bytes, allocs, st.Size())
	})
}

// TestMemoryBudget: a server and a node at rest come to a memory that a small machine can spare.
func TestMemoryBudget(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	own, shared := 0, 0
	defer func() { t.Logf("%d KiB of their own, %d with their share of the binary", own, shared) }()
	eventually(t, time.Minute, fmt.Sprintf("%d KiB of their own, %d with their share of the binary", ownMemory, sharedMemory), func() bool {
		own, shared = 0, 0
		for _, process := range []string{"server", "node-" + c.nodes[0], "runtime-" + c.nodes[0]} {
			m := c.memory(process)
			own, shared = own+m["Pss_Anon"], shared+m["Pss"]
		}
		return own <= ownMemory && shared <= sharedMemory
	})
}

// memory reads a process's sums in KiB (proc_pid_smaps(5), smaps_rollup).
func (c *cluster) memory(process string) map[string]int {
	c.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.pid(process)))
	if err != nil {
		c.t.Fatal(err)
	}
	sums := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+): +(\d+) kB$`).FindAllStringSubmatch(string(raw), -1) {
		sums[m[1]], _ = strconv.Atoi(m[2])
	}
	return sums
}
