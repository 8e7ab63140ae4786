package runtime

import (
	"fmt"
	"path/filepath"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"coracle/internal/runtime/cgroup"
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

// Room that starting a process in a container takes: what sets it up there has
// threads of its own until it becomes the command.
const startPids = 16

// pidsShort says that no process can be started in a container because its
// cgroup, its pod's or the node's is full: with less than slack left, it may
// have failed for that. Nil says that there is room.
func (s *service) pidsShort(c *ctr, slack int64) error {
	s.mu.RLock()
	p := s.sandboxes[c.SandboxID]
	s.mu.RUnlock()
	if p == nil {
		return nil
	}
	of := p.config.GetMetadata().GetNamespace() + "/" + p.config.GetMetadata().GetName()
	for _, at := range []struct{ path, whose, raise string }{
		{c.Cgroup, "container " + c.config.GetMetadata().GetName() + " of pod " + of, "raise its limit"},
		{p.Cgroup, "pod " + of, "raise the limit (coracle up --pod-pids-limit)"},
		{s.cfg.CgroupRoot, "the node's pods together", "reserve fewer for the node (coracle up --reserved-pids)"},
	} {
		group, err := cgroup.Open(at.path)
		if err != nil {
			continue
		}
		if left, limit := group.PidsLeft(); left != cgroup.Unlimited && left <= slack {
			return status.Errorf(codes.ResourceExhausted,
				"no process can be started: %s has %d of at most %d processes and threads (pids limit): end some of them, or %s",
				at.whose, limit-left, limit, at.raise)
		}
	}
	return nil
}
