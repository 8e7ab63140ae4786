package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// dirs are the group's directories, one for each hierarchy. A group may be
// missing on some: making one is cut short when its maker is killed.
func (g *Group) dirs() []string {
	return slices.Compact(slices.Sorted(maps.Values(g.m.GetPaths())))
}

// Children are the names of the groups directly below, on any hierarchy.
func (g *Group) Children() ([]string, error) {
	seen := map[string]bool{}
	for _, dir := range g.dirs() {
		if !hasChildren(dir) {
			continue
		}
		entries, err := os.ReadDir(dir)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list cgroup %s: %w", g.path, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				seen[e.Name()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// hasChildren asks the directory's link count, which the kernel keeps at two
// and one for each group below: a directory of a group holds dozens of files.
func hasChildren(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && st.Nlink != 2
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// Pids returns the processes in the group and below it, on any hierarchy: one
// that was being moved in when its mover died is in on some only.
func (g *Group) Pids() ([]int, error) {
	seen := map[int]bool{}
	for _, dir := range g.dirs() {
		if err := pidsBelow(dir, seen); err != nil {
			return nil, fmt.Errorf("list processes of cgroup %s: %w", g.path, err)
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

func pidsBelow(dir string, into map[int]bool) error {
	pids, err := cgroups.GetPids(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range pids {
		into[p] = true
	}
	if !hasChildren(dir) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !gone(err) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := pidsBelow(filepath.Join(dir, e.Name()), into); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rounds of killing, and how long each waits for the killed to be gone. A
// second round meets only what was forked while the first went on.
const (
	killRounds = 20
	killWait   = 5 * time.Second
)

// Clear kills what runs in the group and below it, and removes them. A group
// that is not there, or not on every hierarchy, is fine.
func (g *Group) Clear() error {
	for range killRounds {
		pids, err := g.Pids()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return g.Remove()
		}
		g.forbidForks()
		if err := g.kill(pids); err != nil {
			return fmt.Errorf("clear cgroup %s: %w", g.path, err)
		}
	}
	pids, _ := g.Pids()
	return fmt.Errorf("clear cgroup %s: processes %v come anew as fast as they are killed", g.path, pids)
}

// forbidForks keeps what is to be killed from having children faster than it
// dies. It does its best: killing in rounds is what counts.
func (g *Group) forbidForks() {
	if dir := g.m.Path("pids"); dir != "" {
		_ = os.WriteFile(filepath.Join(dir, "pids.max"), []byte("0"), 0)
	}
}

// kill kills those of the processes that still are in the group, by handles:
// a number may have gone to another process since it was read.
func (g *Group) kill(pids []int) error {
	held := map[int]int{}
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		switch {
		case err == nil:
			held[pid] = fd
		case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL): // gone, or a thread whose leader is gone
		default:
			return fmt.Errorf("open process %d: %w", pid, err)
		}
	}
	still, err := g.Pids()
	if err != nil {
		return err
	}
	var dying []int
	for _, pid := range still {
		fd, ok := held[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
		dying = append(dying, pid)
	}
	if dir := g.m.Path("freezer"); dir != "" && !V2() {
		thaw(dir)
	}
	until := time.Now().Add(killWait)
	for _, pid := range dying {
		if !readable(held[pid], until) {
			return fmt.Errorf("process %d does not die", pid)
		}
	}
	return nil
}

// thaw lets the killed die: on v1 a frozen process does not, and who froze it
// (libcontainer does, to signal all of a group) may have been killed since.
func thaw(dir string) {
	_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
	if !hasChildren(dir) {
		return
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			thaw(filepath.Join(dir, e.Name()))
		}
	}
}

// readable waits until a descriptor can be read: a process's once it has ended (pidfd_open(2)).
func readable(fd int, until time.Time) bool {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(max(time.Until(until).Milliseconds(), 0)))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}
