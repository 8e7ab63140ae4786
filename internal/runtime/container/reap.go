package container

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"coracle/internal/runtime/launch"
)

// reaping runs something that starts processes by libcontainer. When it fails, no process that it started is left.
//
// libcontainer's stages make the container's process a child of ours, and tell us its number last. When they fail before
// that, as in a container that is being killed, nobody knows of the child, and a dead child that is never reaped keeps
// its PID namespace's first process from ending for ever (pid_namespaces(7)). A child's parent is the thread that forked:
// so the start gets a thread of its own, whose new children are those of the start and of nothing else. Kernels without
// CONFIG_PROC_CHILDREN do not tell them; there the children stay as libcontainer left them.
func reaping(start func() error) (err error) {
	launch.Apart(func() {
		before := ownChildren()
		if err = start(); err == nil {
			return
		}
		if rerr := reapSince(before); rerr != nil {
			err = errors.Join(err, rerr)
		}
	})
	return err
}

// ownChildren are the children of the calling thread, by number: living ones, and dead ones that are not reaped.
func ownChildren() (pids []int) {
	raw, err := os.ReadFile("/proc/thread-self/children")
	if err != nil {
		return nil
	}
	for _, field := range strings.Fields(string(raw)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// reapSince ends the calling thread's children that are not among those of before, and what they make meanwhile.
func reapSince(before []int) error {
	for {
		left := slices.DeleteFunc(ownChildren(), func(pid int) bool { return slices.Contains(before, pid) })
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)                                         // not reaped: the number is still its own
			if err := launch.Reap(pid); err != nil && !errors.Is(err, unix.ECHILD) { // libcontainer has, meanwhile
				return fmt.Errorf("reap process %d, which a start left: %w", pid, err)
			}
		}
	}
}
