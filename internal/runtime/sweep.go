package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
)

// claims say which cgroups are still somebody's.
type claims struct {
	// whole are the groups of containers and init processes: they stay with
	// all that lies below, which is the container's business.
	whole map[string]bool
	// above are the groups of sandboxes, and every group that one of the others lies in.
	above map[string]bool
}

func newClaims() claims { return claims{whole: map[string]bool{}, above: map[string]bool{}} }

func (c claims) addPod(path string) {
	for ; path != "/" && path != "." && !c.above[path]; path = filepath.Dir(path) {
		c.above[path] = true
	}
}

func (c claims) addWhole(path string) {
	c.whole[path] = true
	c.addPod(filepath.Dir(path))
}

// fate is what becomes of a group that is found.
type fate int

const (
	keepWhole fate = iota // somebody's, with all below
	lookBelow             // somebody's may lie below
	clearIt               // ours and nobody's: it goes with all that runs in it
	notOurs               // a name that we do not give: it stays
)

// Names the agent gives below a node's group, and those we give below a pod's.
var (
	classNames = []string{"besteffort", "burstable"}
	ownNames   = regexp.MustCompile(`^([0-9a-f]{64}|init|pod[0-9A-Za-z._-]+)$`)
)

// fateOf decides on a group below the node's own. Groups below a keepWhole are
// not asked about.
func (c claims) fateOf(path string) fate {
	name := filepath.Base(path)
	switch {
	case c.whole[path]:
		return keepWhole
	case c.above[path], slices.Contains(classNames, name):
		return lookBelow
	case ownNames.MatchString(name):
		return clearIt
	}
	return notOurs
}

// claims are what is somebody's now, but for one sandbox.
func (s *service) claims(but *pod) claims {
	c := newClaims()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.making {
		if p != but {
			c.addPod(p.Cgroup)
			c.addWhole(p.initCgroup())
		}
	}
	for _, p := range s.sandboxes {
		if p == but || !p.snapshot().Ready {
			continue
		}
		c.addPod(p.Cgroup)
		if p.InitPID != 0 {
			c.addWhole(p.initCgroup())
		}
	}
	for _, ctr := range s.containers {
		if ctr.SandboxID != but.id() && ctr.snapshot().Phase != phaseExited {
			c.addWhole(ctr.Cgroup)
		}
	}
	return c
}

func (p *pod) id() string {
	if p == nil {
		return ""
	}
	return p.ID
}

// sweep removes what earlier runtimes left below the node's cgroup and in
// libcontainer's directory: starts that were cut short, pods nobody knows. All
// that lies there is ours (cgroup.Claim). It goes on past failures, which are logged.
func (s *service) sweep() {
	if err := s.sweepBelow(s.cfg.CgroupRoot, s.claims(nil)); err != nil {
		s.cfg.Logger.Error("leftover cgroup not removed", "err", err)
	}
	entries, err := os.ReadDir(s.lcDir)
	for _, e := range entries {
		if s.containers[e.Name()] == nil {
			err = errors.Join(err, container.Discard(s.lcDir, e.Name(), ""))
		}
	}
	if err != nil {
		s.cfg.Logger.Error("leftover container state not removed", "err", err)
	}
	s.sweepRoots()
}

// sweepRoots removes the places of root file systems whose containers are gone.
func (s *service) sweepRoots() {
	entries, err := os.ReadDir(s.rootsDir())
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	for _, e := range entries {
		if s.containers[e.Name()] == nil {
			err = errors.Join(err, s.unmountRoot(&ctr{dir: s.ctrDir(e.Name()), ctrIdentity: ctrIdentity{ID: e.Name()}}))
		}
	}
	if err != nil {
		s.cfg.Logger.Error("leftover root file system not removed", "err", err)
	}
}

func (s *service) sweepBelow(path string, c claims) error {
	group, err := cgroup.Open(path)
	if err != nil {
		return err
	}
	names, err := group.Children()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		child := filepath.Join(path, name)
		switch c.fateOf(child) {
		case lookBelow:
			errs = append(errs, s.sweepBelow(child, c))
		case clearIt:
			s.cfg.Logger.Info("leftover cgroup removed", "cgroup", child)
			errs = append(errs, cgroup.Clear(child))
		case notOurs:
			s.cfg.Logger.Warn("a cgroup that this runtime did not make is left", "cgroup", child)
		case keepWhole:
		}
	}
	return errors.Join(errs...)
}

// clearPod removes a sandbox's cgroup. One that another sandbox of the same pod
// has too stays, without what is nobody's in it. In one that lies outside the
// node's own, what is left there is somebody else's: it stays, and is told.
func (s *service) clearPod(p *pod) error {
	defer s.groups.take(p.Cgroup)()
	c := s.claims(p)
	inside := strings.HasPrefix(p.Cgroup, s.cfg.CgroupRoot+"/")
	switch {
	case c.above[p.Cgroup] && inside:
		return s.sweepBelow(p.Cgroup, c)
	case c.above[p.Cgroup]:
		return nil
	case inside:
		return cgroup.Clear(p.Cgroup)
	}
	group, err := cgroup.Open(p.Cgroup)
	if err != nil {
		return err
	}
	pids, err := group.Pids()
	if err != nil {
		return err
	}
	names, err := group.Children()
	if err != nil {
		return err
	}
	if len(pids) > 0 || len(names) > 0 {
		s.cfg.Logger.Warn("a sandbox's cgroup is left: others are in it", "sandbox", p.ID, "cgroup", p.Cgroup, "pids", pids, "below", names)
		return nil
	}
	return group.Remove()
}
