package podsync

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// Promises of the decisions, each a named check on one decision in its situation.
var promises = map[string]func(in *Input, d Decision) error{
	"nothing is begun twice":                         nothingTwice,
	"one container of a name at a time":              oneOfAName,
	"containers start in order":                      startsInOrder,
	"nothing is started for a pod that ends":         nothingStartsWhenEnding,
	"no restart before its backoff has passed":       backoffHeld,
	"volumes and network go last":                    freedLast,
	"the object goes when nothing is left to say":    deletedLast,
	"what decided to look again does so later":       againInFuture,
	"a finished pod leaves nothing":                  finishedLeavesNothing,
	"main containers are killed before the sidecars": sidecarsLast,
	"a pod that drains goes on while it has time":    drainsOn,
}

func nothingTwice(in *Input, d Decision) error {
	seen := map[string]bool{}
	for _, s := range d.Steps {
		key := s.Key()
		if seen[key] {
			return fmt.Errorf("%s twice in one decision", key)
		}
		seen[key] = true
		deadline, busy := in.Busy[key]
		if k, kill := s.(KillContainer); busy && (!kill || !k.Deadline.Before(deadline) || k.PreStop) {
			return fmt.Errorf("%s is under way", key)
		}
	}
	return nil
}

func starts(d Decision) []StartContainer {
	var out []StartContainer
	for _, s := range d.Steps {
		if st, ok := s.(StartContainer); ok {
			out = append(out, st)
		}
	}
	return out
}

func oneOfAName(in *Input, d Decision) error {
	for _, st := range starts(d) {
		for _, c := range in.World.Containers {
			if c.Name == st.Name && c.State != Exited {
				return fmt.Errorf("%s is started beside %s", st.Name, c.ID)
			}
			if c.Name == st.Name && c.Attempt >= st.Attempt {
				return fmt.Errorf("%s is started as attempt %d beside attempt %d", st.Name, st.Attempt, c.Attempt)
			}
		}
		if !in.Mounted || in.World.Newest() == nil || !in.World.Newest().Ready || in.World.Newest().ID != st.Sandbox {
			return fmt.Errorf("%s is started without volumes or in a sandbox that is not the pod's", st.Name)
		}
	}
	return nil
}

func startsInOrder(in *Input, d Decision) error {
	for _, st := range starts(d) {
		box := in.World.Newest()
		begun := false // main containers were made in this sandbox: initialization is over
		for _, c := range in.World.Containers {
			for i := range in.Pod.Spec.Containers {
				begun = begun || c.Sandbox == box.ID && c.Name == in.Pod.Spec.Containers[i].Name
			}
		}
		if begun {
			continue
		}
		for i := range in.Pod.Spec.InitContainers {
			spec := &in.Pod.Spec.InitContainers[i]
			if spec.Name == st.Name {
				break
			}
			ok := false
			for _, c := range in.World.Containers {
				if c.Name != spec.Name || c.Sandbox != box.ID {
					continue
				}
				if IsSidecar(spec) {
					ok = ok || c.State == Running && (spec.StartupProbe == nil || in.Probes[c.ID].Started)
				} else {
					ok = ok || c.State == Exited && c.ExitCode == 0
				}
			}
			if !ok {
				return fmt.Errorf("%s starts before %s has done its part", st.Name, spec.Name)
			}
		}
	}
	return nil
}

func nothingStartsWhenEnding(in *Input, d Decision) error {
	if !Ending(*in) {
		return nil
	}
	for _, s := range d.Steps {
		switch s.(type) {
		case StartContainer, RunSandbox, MountVolumes:
			return fmt.Errorf("%s for a pod that ends", s.Key())
		}
	}
	return nil
}

func backoffHeld(in *Input, d Decision) error {
	for _, st := range starts(d) {
		last := Latest(in.Pod, in.World, st.Name)
		var spec *corev1.Container
		for _, list := range [][]corev1.Container{in.Pod.Spec.InitContainers, in.Pod.Spec.Containers} {
			for i := range list {
				if list[i].Name == st.Name {
					spec = &list[i]
				}
			}
		}
		if last == nil || last.Hash != Hash(spec) || last.ExitCode == 0 && last.Sandbox != st.Sandbox {
			continue
		}
		if delay, _ := CrashDelay(*last); in.Now.Before(last.FinishedAt.Add(delay)) {
			return fmt.Errorf("%s starts %s early", st.Name, last.FinishedAt.Add(delay).Sub(in.Now))
		}
	}
	return nil
}

func alive(in *Input) bool {
	for _, c := range in.World.Containers {
		if c.State != Exited {
			return true
		}
	}
	return false
}

func freedLast(in *Input, d Decision) error {
	for _, s := range d.Steps {
		switch s.(type) {
		case ReleaseVolumes:
			if alive(in) {
				return fmt.Errorf("volumes go while containers live")
			}
		case StopSandbox:
			if alive(in) && s.Key() == "stop/"+in.World.Newest().ID {
				return fmt.Errorf("the network goes while containers live")
			}
		}
	}
	return nil
}

func deletedLast(in *Input, d Decision) error {
	for _, s := range d.Steps {
		if _, ok := s.(DeleteObject); !ok {
			continue
		}
		if alive(in) || !in.Released || !in.Published || in.Gone || in.Pod.DeletionTimestamp == nil {
			return fmt.Errorf("the object is deleted too early")
		}
		for _, box := range in.World.Sandboxes {
			if box.Ready {
				return fmt.Errorf("the object is deleted while sandbox %s is up", box.ID)
			}
		}
	}
	return nil
}

func againInFuture(in *Input, d Decision) error {
	if !d.Again.IsZero() && !d.Again.After(in.Now) {
		return fmt.Errorf("look again at %s, now is %s", d.Again, in.Now)
	}
	return nil
}

func finishedLeavesNothing(in *Input, d Decision) error {
	if d.Finished && (len(in.World.Sandboxes) > 0 || len(in.World.Containers) > 0 || len(in.Busy) > 0 || !in.Released || !in.Gone) {
		return fmt.Errorf("finished with things left")
	}
	return nil
}

func sidecarsLast(in *Input, d Decision) error {
	if !Ending(*in) {
		return nil
	}
	sidecar := map[string]bool{}
	for i := range in.Pod.Spec.InitContainers {
		sidecar[in.Pod.Spec.InitContainers[i].Name] = IsSidecar(&in.Pod.Spec.InitContainers[i])
	}
	mains := false
	for _, c := range in.World.Containers {
		mains = mains || c.State != Exited && !sidecar[c.Name]
	}
	for _, s := range d.Steps {
		if k, ok := s.(KillContainer); ok && sidecar[k.Name] && mains {
			return fmt.Errorf("sidecar %s is killed while others live", k.Name)
		}
	}
	return nil
}

func drainsOn(in *Input, d Decision) error {
	grace := in.Pod.DeletionGracePeriodSeconds
	if !in.Draining || in.Gone || grace == nil || !in.Now.Before(in.EndingSince.Add(time.Duration(*grace)*time.Second)) {
		return nil
	}
	for _, s := range d.Steps {
		switch s.(type) {
		case KillContainer, StopSandbox, ReleaseVolumes:
			return fmt.Errorf("%s for a pod to which connections are led", s.Key())
		}
	}
	return nil
}

// TestPromises lets random things happen to random pods and checks every promise at every
// decision; then it lets the world be kind and checks that the pod comes to rest where it should.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(drawPod(t))
		check := func() Decision {
			before := fmt.Sprintf("%+v", m.in)
			in := m.in
			if in.EndingSince.IsZero() && Ending(in) {
				in.EndingSince = in.Now
			}
			d := Decide(in)
			for name, promise := range promises {
				if err := promise(&in, d); err != nil {
					t.Fatalf("%s: %v\nsteps %v\nworld %+v\nbusy %v", name, err, d.Steps, in.World, in.Busy)
				}
			}
			if after := fmt.Sprintf("%+v", m.in); after != before {
				t.Fatalf("the decision changed its input:\n%s", cmp.Diff(before, after))
			}
			if diff := cmp.Diff(d, Decide(in)); diff != "" {
				t.Fatalf("the same input, another decision:\n%s", diff)
			}
			return m.decide()
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"complete": func(t *rapid.T) {
				under := m.under()
				if len(under) == 0 {
					t.Skip()
				}
				key := rapid.SampledFrom(under).Draw(t, "step")
				if rapid.IntRange(0, 4).Draw(t, "luck") == 0 {
					m.refused[key] = rapid.SampledFrom([]string{ErrImagePull, RunContainerError}).Draw(t, "reason")
				}
				m.complete(key)
				delete(m.refused, key)
			},
			"exit": func(t *rapid.T) {
				if ids := m.running(); len(ids) > 0 {
					m.exit(rapid.SampledFrom(ids).Draw(t, "id"), rapid.SampledFrom([]int32{0, 1}).Draw(t, "code"))
				}
			},
			"probe": func(t *rapid.T) {
				if ids := m.running(); len(ids) > 0 {
					m.in.Probes[rapid.SampledFrom(ids).Draw(t, "id")] = rapid.SampledFrom([]Probes{
						{Started: true}, {Started: true, Ready: true}, {Failed: Liveness}, {Failed: Startup},
					}).Draw(t, "verdict")
				}
			},
			"sandbox dies": func(t *rapid.T) {
				if len(m.in.World.Sandboxes) > 0 && rapid.IntRange(0, 3).Draw(t, "luck") == 0 {
					m.in.World.Sandboxes[0].Ready = false
				}
			},
			"agent restarts": func(t *rapid.T) {
				m.busy, m.in.Busy = map[string]Step{}, map[string]time.Time{}
				m.in.Failures, m.in.Mounted, m.in.EndingSince = map[string]Failure{}, false, time.Time{}
			},
			"time": func(t *rapid.T) {
				m.in.Now = m.in.Now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "s")) * time.Second)
			},
			"edit": func(t *rapid.T) { m.edit() },
			"delete": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "luck") == 0 {
					m.delete(int64(rapid.IntRange(0, 60).Draw(t, "grace")))
				}
			},
			"drain": func(t *rapid.T) {
				m.in.Draining = rapid.Bool().Draw(t, "draining")
			},
			"force": func(t *rapid.T) {
				if rapid.IntRange(0, 19).Draw(t, "luck") == 0 {
					m.in.Gone = true
				}
			},
		})
		settle(t, m, check)
	})
}

func (m *model) edit() {
	pod := m.in.Pod.DeepCopy()
	pod.Spec.Containers[0].Image += "'"
	m.in.Pod = pod
}

func drawPod(t *rapid.T) *corev1.Pod {
	words := []string{rapid.SampledFrom([]string{"Always", "OnFailure", "Never"}).Draw(t, "policy")}
	for i := range rapid.IntRange(0, 3).Draw(t, "inits") {
		words = append(words, fmt.Sprintf("%s:i%d", rapid.SampledFrom([]string{"init", "side", "sidewait"}).Draw(t, "kind"), i))
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "mains") {
		words = append(words, fmt.Sprintf("%s:m%d", rapid.SampledFrom([]string{"main", "hooked"}).Draw(t, "kind"), i))
	}
	return parsePod(words)
}

// settle is kind: every step succeeds, init containers succeed, probes are well, time passes. The
// pod must come to rest: all running, ended, or gone, as it was asked.
func settle(t *rapid.T, m *model, check func() Decision) {
	for range 2000 {
		d := check()
		if d.Finished {
			return
		}
		moved := len(d.Steps) > 0
		for _, key := range m.under() {
			m.complete(key)
			moved = true
		}
		moved = m.kindness() || moved
		if moved {
			continue
		}
		if d.Again.IsZero() {
			rest(t, m)
			return
		}
		m.in.Now = d.Again
	}
	t.Fatalf("does not come to rest: %+v", m.in)
}

func (m *model) kindness() (moved bool) {
	for _, id := range m.running() {
		if p := m.in.Probes[id]; !p.Started || p.Failed != "" {
			m.in.Probes[id] = Probes{Started: true, Ready: true}
			moved = true
		}
		name, _, _ := strings.Cut(id, "#")
		if strings.HasPrefix(name, "i") && !IsSidecar(m.spec(name)) {
			m.exit(id, 0)
			moved = true
		}
	}
	return moved
}

// rest checks that a pod at rest is where it should be.
func rest(t *rapid.T, m *model) {
	in := m.in
	switch done, _ := Outcome(in.Pod, in.World); {
	case in.Gone:
		t.Fatalf("a pod that is gone is not finished: %+v", in.World)
	case in.Pod.DeletionTimestamp != nil:
		t.Fatalf("a deleted pod is not gone: %+v", in.World)
	case done:
		if alive(&in) || in.World.Newest().Ready || !in.Released {
			t.Fatalf("a pod that ended holds on to things: %+v", in)
		}
	default:
		for i := range in.Pod.Spec.Containers {
			last := Latest(in.Pod, in.World, in.Pod.Spec.Containers[i].Name)
			if last == nil || last.State != Running && Restarts(in.Pod, last) {
				t.Fatalf("container %s rests: %+v", in.Pod.Spec.Containers[i].Name, last)
			}
		}
	}
}
