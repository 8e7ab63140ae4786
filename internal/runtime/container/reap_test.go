package container

import (
	"errors"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"coracle/internal/runtime/launch"
)

// TestReaping: a start that fails leaves no child of its own, dead or alive, and no child of others is touched.
func TestReaping(t *testing.T) {
	begin := func(command ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(command[0], command[1:]...)
		if err := cmd.Start(); err != nil {
			t.Error(err)
		}
		return cmd
	}
	there := func(cmd *exec.Cmd) bool { return unix.Kill(cmd.Process.Pid, 0) == nil }
	end := func(cmd *exec.Cmd) {
		t.Helper()
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
	}
	var earlier, meanwhile, left, dead, good *exec.Cmd
	launch.Apart(func() {
		earlier = begin("sleep", "1000") // of the same thread
		before := ownChildren()
		left, dead = begin("sleep", "1000"), begin("true")
		launch.Apart(func() { meanwhile = begin("sleep", "1000") })
		if err := reapSince(before); err != nil {
			t.Error(err)
		}
	})
	defer end(earlier)
	defer end(meanwhile)
	for name, cmd := range map[string]*exec.Cmd{"living": left, "dead": dead} {
		if there(cmd) {
			t.Errorf("the %s child is left", name)
		}
		_ = cmd.Process.Release()
	}
	failed := errors.New("failed")
	if err := reaping(func() error { left = begin("sleep", "1000"); return failed }); !errors.Is(err, failed) || there(left) {
		t.Errorf("a start failed with %v, and left a child: %v", err, there(left))
	}
	_ = left.Process.Release()
	if err := reaping(func() error { good = begin("sleep", "1000"); return nil }); err != nil || !there(good) {
		t.Errorf("a start that succeeded: %v; its process is there: %v", err, there(good))
	}
	end(good)
	for name, cmd := range map[string]*exec.Cmd{"same thread's earlier": earlier, "other thread's": meanwhile} {
		if !there(cmd) {
			t.Errorf("the %s child is gone", name)
		}
	}
}
