package runtime

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestReexecComesFirst: a process that is to become something else does so as soon as libcontainer is initialised, and
// not after other libraries of the same binary: Go takes, of the packages that are ready, the first by its path.
func TestReexecComesFirst(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	var order []string
	for line := range strings.Lines(said.String()) {
		if pkg, _, ok := strings.Cut(line, " @"); ok && strings.HasPrefix(pkg, "init ") {
			order = append(order, strings.TrimPrefix(pkg, "init "))
		}
	}
	const needs, self = "github.com/opencontainers/runc/libcontainer", "coracle/internal/runtime/reexec"
	all := "\n" + strings.Join(order, "\n") + "\n"
	if !strings.Contains(all, "\n"+needs+"\n"+self+"\n") {
		t.Errorf("%s is not initialised right after %s, but in this order:%s", self, needs, all)
	}
}
