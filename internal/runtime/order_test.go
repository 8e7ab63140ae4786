package runtime

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestReexecComesFirst: a process that is to become something else does so before the Kubernetes libraries of the same
// binary are initialised, for which the path of package reexec must sort before theirs.
func TestReexecComesFirst(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	const self = "coracle/internal/runtime/reexec"
	var before []string
	for line := range strings.Lines(said.String()) {
		pkg, _, ok := strings.Cut(strings.TrimPrefix(line, "init "), " @")
		if !ok || !strings.HasPrefix(line, "init ") {
			continue
		}
		if pkg == self {
			if len(before) == 0 {
				t.Error("nothing is initialised before it: the trace is not understood")
			}
			return
		}
		if before = append(before, pkg); strings.HasPrefix(pkg, "k8s.io/") || strings.HasPrefix(pkg, "sigs.k8s.io/") {
			t.Errorf("%s is initialised before %s", pkg, self)
		}
	}
	t.Errorf("%s is not in the trace: %s", self, said.String())
}
