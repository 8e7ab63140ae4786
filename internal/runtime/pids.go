package runtime

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
)

// Defaults of the limits of processes. A node's pods leave a tenth of the
// machine's pids to the rest of the machine, within bounds; a pod gets at most
// a quarter of what its node has, and no more than any sane pod needs, so that
// one that forks without end leaves the others room.
const (
	leastReserved = 1024
	mostReserved  = 8192
	mostPodPids   = 4096
	podShare      = 4
)

// pidLimits are how many processes and threads all pods of a node, and one
// pod that says nothing itself, may have.
type pidLimits struct{ node, pod int64 }

// limitPids decides on the limits. room is what the machine can have; reserved
// and pod are the settings, 0 for the defaults, pod cgroup.Unlimited for none.
func limitPids(room, reserved, pod int64) (pidLimits, error) {
	switch {
	case reserved < 0:
		return pidLimits{}, fmt.Errorf("reserved pids %d: want a positive number, or 0 for the default", reserved)
	case reserved == 0:
		reserved = min(max(room/10, leastReserved), mostReserved, room/2)
	case reserved >= room:
		return pidLimits{}, fmt.Errorf("reserved pids %d: that is all the machine has (%d); reserve less, or raise kernel.pid_max", reserved, room)
	}
	l := pidLimits{node: room - reserved, pod: pod}
	switch {
	case pod < cgroup.Unlimited:
		return pidLimits{}, fmt.Errorf("pod pids limit %d: want a positive number, -1 for none, or 0 for the default", pod)
	case pod == 0:
		l.pod = max(min(l.node/podShare, mostPodPids), 1)
	}
	return l, nil
}

// pidsRefused counts how often a container was refused a process by its own
// limit or its pod's. Kernels before 6.11 count where the process was to be,
// later ones where the limit is: there, other containers of the pod count too.
func (s *service) pidsRefused(c *ctr, own *cgroup.Group) int64 {
	n := own.PidsRefused()
	if pod, err := cgroup.Open(filepath.Dir(c.Cgroup)); err == nil {
		n = max(n, pod.PidsRefused())
	}
	return n
}

// startPids is the room that starting a process in a container takes: what sets it
// up there has threads of its own until it becomes the command.
const startPids = 16

// pidsLevel is a group that bounds the processes of a container, with what it
// counted before a process was to be started in the container, and after that failed.
type pidsLevel struct {
	// whose and raise say in a message whose group it is, and what gives it more room.
	whose, raise string
	path         string
	before       cgroup.PidsUse
	after        cgroup.PidsUse
}

// refusedNow is how many new processes the group refused meanwhile.
func (l pidsLevel) refusedNow() int64 {
	if !l.before.Known || !l.after.Known {
		return 0
	}
	return max(l.after.Refused-l.before.Refused, 0)
}

// pidsCulprit decides which of the groups, the innermost first, was full when a
// process could not be started; -1 says that none was. forkRefused says that the
// failure itself tells of a fork that was refused.
//
// What was refused is known by the groups' counters, also when room has come
// back since. On some kernels they say only where the process was to be: the
// full group is that one or one above it, and the one with the least room left
// is named. A group that is gone has taken its counter with it, and any may have
// been full: then one with less room than a start takes is named.
func pidsCulprit(levels []pidsLevel, forkRefused bool) int {
	from, blind := -1, false
	for i, l := range levels {
		if l.refusedNow() > 0 {
			from = i
			break
		}
		blind = blind || !l.after.Known
	}
	most := int64(math.MaxInt64)
	switch {
	case forkRefused || blind && from > 0:
		from = 0
	case from >= 0:
	case blind:
		from, most = 0, startPids
	default:
		return -1
	}
	at := -1
	for i, l := range levels[from:] {
		if left := l.after.Left(); left != cgroup.Unlimited && (left < most || at < 0 && left == most) {
			at, most = from+i, left
		}
	}
	return at
}

// pidsLevels are the groups that bound a container's processes, the innermost
// first, with what they count now.
func (s *service) pidsLevels(c *ctr) []pidsLevel {
	s.mu.RLock()
	p := s.sandboxes[c.SandboxID]
	s.mu.RUnlock()
	if p == nil {
		return nil
	}
	of := p.config.GetMetadata().GetNamespace() + "/" + p.config.GetMetadata().GetName()
	levels := []pidsLevel{
		{path: c.Cgroup, whose: "container " + c.config.GetMetadata().GetName() + " of pod " + of, raise: "raise its limit"},
		{path: p.Cgroup, whose: "pod " + of, raise: "raise the limit (coracle up --pod-pids-limit)"},
		{path: s.cfg.CgroupRoot, whose: "the node's pods together", raise: "reserve fewer for the node (coracle up --reserved-pids)"},
	}
	for i := range levels {
		levels[i].before = pidsUse(levels[i].path)
	}
	if !levels[0].before.Known { // it is made by the start
		if limit, _ := cgroup.Unified(c.snapshot().resources(c)); limit != nil {
			levels[0].before.Limit = *limit
		}
	}
	return levels
}

func pidsUse(path string) cgroup.PidsUse {
	group, err := cgroup.Open(path)
	if err != nil {
		return cgroup.PidsUse{Limit: cgroup.Unlimited}
	}
	return group.PidsUse()
}

// pidsFull says that no process can be started because one of the groups is
// full; nil says that there is room.
func pidsFull(levels []pidsLevel) error {
	for _, l := range levels {
		if l.before.Left() == 0 {
			l.after = l.before
			return l.exhausted()
		}
	}
	return nil
}

// pidsShort says that a process could not be started, for which cause is the
// reason that was given, because one of the groups was full. Nil says that it
// failed, or takes long, for another reason.
func pidsShort(levels []pidsLevel, cause error) error {
	if blameless(cause) {
		return nil
	}
	for i := range levels {
		l := &levels[i]
		l.after = pidsUse(l.path)
		if !l.after.Known && l.after.Limit == cgroup.Unlimited {
			l.after.Limit = l.before.Limit
		}
	}
	if at := pidsCulprit(levels, forkRefused(cause)); at >= 0 {
		return levels[at].exhausted()
	}
	return nil
}

// blameless says that a start failed because of what the command is: none is there, or it is none.
func blameless(err error) bool {
	var se *container.StartError
	return errors.As(err, &se) && (se.Code == 126 || se.Code == 127)
}

// forkRefused says that an error tells of a fork that the kernel refused: what
// sets a container up passes it on as text.
func forkRefused(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), strings.ToLower(unix.EAGAIN.Error()))
}

// exhausted says which limit was met, with what the group has now.
func (l pidsLevel) exhausted() error {
	has := fmt.Sprintf("%s has %d of at most %d processes and threads (pids limit)", l.whose, l.after.Now, l.after.Limit)
	switch n := l.refusedNow(); {
	case !l.after.Known:
		has = fmt.Sprintf("%s may have at most %d processes and threads (pids limit), too few for its start", l.whose, l.after.Limit)
	case n > 0 && l.after.Left() > 0:
		has += fmt.Sprintf(" and had no room for %d more a moment ago", n)
	}
	return status.Errorf(codes.ResourceExhausted, "no process can be started: %s: end some of them, or %s", has, l.raise)
}
