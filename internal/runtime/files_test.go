package runtime

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func removeFile(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// readFile returns "" when there is no such file.
func readFile(path string) string {
	raw, _ := os.ReadFile(path)
	return string(raw)
}

// noZombies fails the test when the runtime has children that it does not reap.
func (n *node) noZombies() {
	deadline := time.Now().Add(5 * time.Second)
	for {
		var dead []string
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", n.cmd.Process.Pid))
		for _, task := range tasks {
			for _, pid := range strings.Fields(readFile(task)) {
				if stat := readFile("/proc/" + pid + "/stat"); strings.Contains(stat, ") Z ") {
					dead = append(dead, stat[:strings.IndexByte(stat, ')')+1])
				}
			}
		}
		if len(dead) == 0 {
			return
		}
		if time.Now().After(deadline) {
			n.t.Errorf("not reaped: %v", dead)
			return
		}
		runtime.Gosched()
	}
}

// safeBuffer is a buffer that a stream may write while a test reads it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
