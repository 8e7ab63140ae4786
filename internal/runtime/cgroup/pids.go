package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PidsMax is the key of CRI's unified resources that limits a group's
// processes: the one we obey on cgroup v1 too, where it is a file of the same name.
const PidsMax = "pids.max"

// Unlimited as a number of processes is no limit.
const Unlimited = -1

// ErrUnified says that a unified resource cannot be set on this machine.
var ErrUnified = errors.New("unified resource")

// unified splits a request's unified resources into the limit of processes, nil
// where none is given, and the others.
func unified(r *cri.LinuxContainerResources) (pids *int64, others map[string]string, err error) {
	for key, value := range r.GetUnified() {
		if key != PidsMax {
			if others == nil {
				others = map[string]string{}
			}
			others[key] = value
			continue
		}
		n, err := readLimit(value)
		if err != nil || n == 0 {
			return nil, nil, fmt.Errorf("%w %s: %q: want a positive number or max", ErrUnified, key, value)
		}
		pids = &n
	}
	return pids, others, nil
}

// Check refuses resources that this machine's cgroups cannot take, with an
// error that is ErrUnified.
func Check(r *cri.LinuxContainerResources) error {
	_, others, err := unified(r)
	if err != nil {
		return err
	}
	for key := range others {
		if !V2() {
			return fmt.Errorf("%w %s: this machine's cgroups are not v2 (only %s is set there too)", ErrUnified, key, PidsMax)
		}
	}
	return nil
}

// Unified is what a request's unified resources come to: the limit of
// processes, nil where none is given, and what only cgroup v2 knows.
func Unified(r *cri.LinuxContainerResources) (pids *int64, others map[string]string) {
	pids, others, err := unified(r)
	if err != nil {
		return nil, nil // refused before: see Check
	}
	return pids, others
}

// ErrNoPids says that the machine's cgroups do not count processes.
var ErrNoPids = errors.New("this machine's cgroups have no pids controller")

// LimitPids limits the processes and threads of the group and all below it. It
// fails with ErrNoPids where they are not counted.
func (g *Group) LimitPids(n int64) error {
	dir := g.m.Path("pids")
	if dir == "" || !cgroups.PathExists(filepath.Join(dir, PidsMax)) {
		return fmt.Errorf("limit processes of cgroup %s: %w", g.path, ErrNoPids)
	}
	text := "max"
	if n != Unlimited {
		text = strconv.FormatInt(n, 10)
	}
	if err := os.WriteFile(filepath.Join(dir, PidsMax), []byte(text), 0); err != nil {
		return fmt.Errorf("limit processes of cgroup %s: %w", g.path, err)
	}
	return nil
}

// PidsUse is what a group counts of its processes and threads, with those of the groups below it.
type PidsUse struct {
	// Limit is the most it may have, Unlimited for no limit. The limits of the groups above do not count.
	Limit int64
	// Now is how many it has.
	Now int64
	// Refused is how often a new one was refused. Kernels before 6.11, and later ones on cgroup v1, count it in the
	// group where it was to be, whichever group's limit it was; later ones on v2 in the group that has the limit, and in
	// all above it (Documentation/admin-guide/cgroup-v2.rst, "PID").
	Refused int64
	// Known says that the group is there and counts refusals.
	Known bool
}

// Left is how many more the group's own limit allows; Unlimited without one.
func (u PidsUse) Left() int64 {
	if u.Limit == Unlimited {
		return Unlimited
	}
	return max(u.Limit-u.Now, 0)
}

// PidsUse reads the group's counts. A group that is gone has neither limit nor processes.
func (g *Group) PidsUse() PidsUse {
	dir := g.m.Path("pids")
	if dir == "" {
		return PidsUse{Limit: Unlimited}
	}
	u := PidsUse{Limit: fileLimit(filepath.Join(dir, PidsMax)), Now: max(fileLimit(filepath.Join(dir, "pids.current")), 0)}
	u.Refused, u.Known = pidsRefused(filepath.Join(dir, "pids.events"))
	return u
}

// PidsLeft is how many processes the group may still have, and its limit. The
// limits of the groups above do not count. Without a limit both are Unlimited.
func (g *Group) PidsLeft() (left, limit int64) {
	u := g.PidsUse()
	return u.Left(), u.Limit
}

// PidsRefused counts how often a process of the group could not have a child,
// or another thread, for want of pids.
func (g *Group) PidsRefused() int64 { return g.PidsUse().Refused }

func pidsRefused(file string) (count int64, known bool) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(raw)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "max "); ok {
			count, err = strconv.ParseInt(n, 10, 64)
			return count, err == nil
		}
	}
	return 0, false
}

// PidsOver says whether a group, or one of those above it, has more processes than it may. The kernel refuses new ones,
// but not those that are moved there (Documentation/admin-guide/cgroup-v1/pids.rst). Paths are the group's directories
// by controller, as cgroups.Manager gives them.
func PidsOver(paths map[string]string) bool {
	dir := paths["pids"]
	if dir == "" {
		dir = paths[""]
	}
	for ; strings.HasPrefix(dir, "/sys/fs/cgroup/"); dir = filepath.Dir(dir) {
		limit := fileLimit(filepath.Join(dir, PidsMax))
		if limit != Unlimited && fileLimit(filepath.Join(dir, "pids.current")) > limit {
			return true
		}
	}
	return false
}

// PidsRoom is how many processes and threads this machine can have where the
// group is: the kernel's own limits (kernel.pid_max, kernel.threads-max) and
// those of the groups above.
func (g *Group) PidsRoom() int64 {
	room := int64(math.MaxInt64)
	at := []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"}
	if dir := g.m.Path("pids"); dir != "" {
		for up := filepath.Dir(dir); strings.HasPrefix(up, "/sys/fs/cgroup"); up = filepath.Dir(up) {
			at = append(at, filepath.Join(up, PidsMax))
		}
	}
	for _, file := range at {
		if n := fileLimit(file); n != Unlimited {
			room = min(room, n)
		}
	}
	return room
}

// fileLimit reads a number from a file of the kernel's; Unlimited where there is none.
func fileLimit(path string) int64 {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Unlimited
	}
	n, err := readLimit(strings.TrimSpace(string(raw)))
	if err != nil {
		return Unlimited
	}
	return n
}

func readLimit(text string) (int64, error) {
	if text == "max" {
		return Unlimited, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	return n, err
}
