package store_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"coracle/internal/store"
)

const childDir = "CORACLE_STORE_TEST_DIR"

// TestKilledChild is not a test of its own: it is the process that TestKill kills. It writes
// counters, prints each acknowledged value, and compacts now and then, until its end.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("run by TestKill")
	}
	s, err := store.Open(store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	c := collection(t, s, examplePods("/pods"))
	start := values(t, c)
	var out sync.Mutex
	for i := range 16 {
		go func() {
			name := fmt.Sprint("w", i)
			n, _ := strconv.Atoi(start[name])
			for {
				n++
				if _, err := put(context.Background(), c, name, strconv.Itoa(n)); err != nil {
					fmt.Println("ERROR", err)
					return
				}
				out.Lock()
				_, _ = os.Stdout.WriteString(name + " " + strconv.Itoa(n) + "\n")
				out.Unlock()
				if i == 0 && n%50 == 0 {
					go func() { _ = store.CompactEngine(s) }()
				}
			}
		}()
	}
	select {}
}

// TestKill kills a writing process at random moments: whatever it said was written is there.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	acked := map[string]int{}
	for round := range 8 {
		for name, n := range runAndKill(t, dir, time.Duration(20+rand.IntN(150))*time.Millisecond) {
			acked[name] = n
		}
		s := openStore(t, store.Config{Dir: dir})
		got := values(t, collection(t, s, examplePods("/pods")))
		for name, n := range acked {
			// One more may have become durable without its acknowledgement having been printed.
			if have, _ := strconv.Atoi(got[name]); have < n || have > n+1 {
				t.Errorf("round %d: %s is %s, acknowledged %d", round, name, got[name], n)
			}
		}
		for name, v := range got {
			acked[name], _ = strconv.Atoi(v)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(acked) != 16 {
		t.Errorf("only %d writers ever wrote", len(acked))
	}
}

// runAndKill returns the newest acknowledged value of each counter.
func runAndKill(t *testing.T, dir string, life time.Duration) map[string]int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$", "-test.v=false")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := map[string]int{}
	var kill sync.Once
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		kill.Do(func() { time.AfterFunc(life, func() { _ = cmd.Process.Kill() }) }) // from the first write on
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(value)
		if name == "ERROR" || name == "FAIL" || strings.HasPrefix(name, "---") {
			t.Error("child:", lines.Text())
		}
		if err == nil {
			acked[name] = n
		}
	}
	kill.Do(func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // killed
	return acked
}
