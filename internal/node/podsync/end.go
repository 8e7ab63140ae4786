package podsync

import (
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// leastGrace is what a container gets whose pod was removed by force, and a sidecar whose turn
// comes after the deadline.
const leastGrace = 2 * time.Second

// ending says whether the pod must go or has come to its end.
func (s *decision) ending() bool {
	if s.Gone || s.Pod.DeletionTimestamp != nil || Terminal(s.Pod.Status.Phase) || Verdict(&s.Input) != nil {
		return true
	}
	done, _ := Outcome(s.Pod, s.World)
	return done
}

// Ending says whether a decision on in would end the pod rather than keep it.
func Ending(in Input) bool { return (&decision{Input: in}).ending() }

// end stops what runs, then frees what the pod holds and, when it was deleted, removes it.
func (s *decision) end() {
	starting := s.cancelStarts()
	if s.draining() {
		return
	}
	if alive := s.killAll(); alive || starting {
		return
	}
	stopped := true
	for _, box := range s.World.Sandboxes {
		if box.Ready {
			stopped = false
			s.do(StopSandbox{ID: box.ID})
		}
	}
	if !stopped {
		return
	}
	s.out.Stopped = true
	if !s.Released {
		s.do(ReleaseVolumes{})
		return
	}
	switch {
	case s.Gone:
		s.removeRemains()
	case s.Pod.DeletionTimestamp != nil && s.Published && !s.released():
		s.do(DeleteObject{})
	}
}

// draining says whether the containers go on as before, though the pod is deleted. A pod that has no time left does not.
func (s *decision) draining() bool {
	if !s.Draining || s.Gone || s.Pod.DeletionTimestamp == nil || !s.Now.Before(s.deadline()) {
		return false
	}
	s.again(s.deadline())
	return true
}

// released says whether the API already knows that nothing of the pod runs: its grace is spent,
// and what it waits for are finalizers.
func (s *decision) released() bool {
	g := s.Pod.DeletionGracePeriodSeconds
	return g != nil && *g == 0 && len(s.Pod.Finalizers) > 0
}

// removeRemains removes the remains of a pod that the API no longer knows.
func (s *decision) removeRemains() {
	for _, box := range s.World.Sandboxes {
		s.do(RemoveSandbox{ID: box.ID})
	}
	s.out.Finished = len(s.World.Sandboxes) == 0 && len(s.Busy) == 0
}

// cancelStarts gives up what would bring the pod up, and says whether any of it is under way.
func (s *decision) cancelStarts() (busy bool) {
	return s.cancel((MountVolumes{}).Key(), (RunSandbox{}).Key(), startKey(""))
}

// cancel gives up operations by the beginnings of their keys, and says whether there are any.
func (s *decision) cancel(prefixes ...string) (busy bool) {
	keys := make([]string, 0, len(s.Busy))
	for key := range s.Busy {
		for _, prefix := range prefixes {
			if strings.HasPrefix(key, prefix) {
				keys = append(keys, key)
			}
		}
	}
	sort.Strings(keys)
	for _, key := range keys {
		s.out.Steps = append(s.out.Steps, Cancel{Op: key})
	}
	return len(keys) > 0
}

// killAll kills main containers together, then the sidecars one by one from the last, and says
// whether anything is left alive.
func (s *decision) killAll() (alive bool) {
	deadline := s.deadline()
	sidecars := map[string]bool{}
	for i := range s.Pod.Spec.InitContainers {
		if spec := &s.Pod.Spec.InitContainers[i]; IsSidecar(spec) {
			sidecars[spec.Name] = true
		}
	}
	for i := range s.World.Containers {
		c := &s.World.Containers[i]
		switch {
		case c.State == Created:
			alive = true
			s.do(RemoveContainer{ID: c.ID})
		case c.State != Exited && !sidecars[c.Name]:
			alive = true
			s.killBy(c, deadline)
		}
	}
	if alive {
		return true
	}
	for i := len(s.Pod.Spec.InitContainers) - 1; i >= 0; i-- {
		spec := &s.Pod.Spec.InitContainers[i]
		if !sidecars[spec.Name] {
			continue
		}
		for _, c := range s.World.Attempts(spec.Name) {
			if c.State == Running || c.State == Unknown {
				alive = true
				s.killBy(c, later(deadline, s.Now.Add(leastGrace)))
			}
		}
		if alive {
			return true
		}
	}
	return false
}

// killBy kills a container by the deadline; a kill under way is hastened when it has longer.
func (s *decision) killBy(c *Container, deadline time.Time) {
	step := KillContainer{ID: c.ID, Name: c.Name, Deadline: deadline, PreStop: true, Message: "Stopping container " + c.Name}
	under, busy := s.Busy[step.Key()]
	if !busy {
		s.do(step)
		return
	}
	// A sidecar's late deadline moves with now: only a real change is worth a word.
	if deadline.Add(leastGrace).Before(under) || (deadline.Before(under) && !deadline.After(s.Now)) {
		step.PreStop, step.Message = false, ""
		s.out.Steps = append(s.out.Steps, step)
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// deadline is when the containers of an ending pod are killed for good.
func (s *decision) deadline() time.Time {
	since := s.EndingSince
	if since.IsZero() {
		since = s.Now
	}
	grace := s.grace()
	if g := s.Pod.DeletionGracePeriodSeconds; g != nil && s.Pod.DeletionTimestamp != nil {
		grace = time.Duration(*g) * time.Second
	}
	if s.Gone {
		grace = leastGrace
	}
	return since.Add(grace)
}

// prune removes the attempts that neither a status nor `logs --previous` shows any more.
func (s *decision) prune() {
	if s.Gone {
		return
	}
	needed := map[string]bool{} // sandboxes with a container worth keeping
	seen := map[string]bool{}
	for i := range s.World.Containers {
		name := s.World.Containers[i].Name
		if seen[name] {
			continue
		}
		seen[name] = true
		for n, c := range s.World.Attempts(name) {
			switch {
			case n < 2 || c.State != Exited:
				needed[c.Sandbox] = true
			case n >= 2:
				s.do(RemoveContainer{ID: c.ID})
			}
		}
	}
	for i, box := range s.World.Sandboxes {
		switch {
		case i == 0:
		case box.Ready:
			s.do(StopSandbox{ID: box.ID})
		case !needed[box.ID]:
			s.do(RemoveSandbox{ID: box.ID})
		}
	}
}

// MainStarted says whether initialization is over: a main container exists or once ran.
func MainStarted(pod *corev1.Pod, w World) bool {
	for i := range pod.Spec.Containers {
		if Latest(pod, w, pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}
