package cgroup

import (
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/opencontainers/cgroups"
)

var warming atomic.Bool

// Warm makes the next move of a process into a group cheap, without waiting.
//
// The kernel guards such moves by a lock whose writer first waits for an RCU
// grace period (cgroup_threadgroup_rwsem; 7 to 27 ms measured), unless another
// writer was there within the last 20 ms or so. Whoever is about to start a
// container can have that wait happen beside the work that comes before:
// moving ourselves to where we are takes the lock and changes nothing.
func Warm() {
	if !warming.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer warming.Store(false)
		if path := own(); path != "" {
			_ = os.WriteFile(path, []byte("0"), 0) // best effort
		}
	}()
}

// own is the cgroup.procs file of the group we are in, on any one hierarchy.
func own() string {
	groups, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	if V2() {
		return filepath.Join("/sys/fs/cgroup", groups[""], "cgroup.procs")
	}
	for _, dir := range Controllers() {
		if path, ok := groups[filepath.Base(dir)]; ok {
			return filepath.Join(dir, path, "cgroup.procs")
		}
	}
	return ""
}
