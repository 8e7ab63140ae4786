package podsync

import (
	"fmt"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// model is a node in miniature: it carries out decisions on one pod, each step taking as long as
// the driver of the model likes.
type model struct {
	in     Input
	serial int
	// refused holds step keys that fail when they end, with the reason.
	refused map[string]string
	// trace gets a line for each thing that happens.
	trace func(format string, args ...any)
	// busy holds the steps under way.
	busy map[string]Step
	// deleted: the API object went by our own hand.
	deleted  bool
	finished bool
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newModel(pod *corev1.Pod) *model {
	return &model{
		in: Input{
			Pod: pod, Probes: map[string]Probes{}, Failures: map[string]Failure{}, Busy: map[string]time.Time{}, Now: epoch,
		},
		refused: map[string]string{}, busy: map[string]Step{}, trace: func(string, ...any) {},
	}
}

// decide takes one decision and begins its steps.
func (m *model) decide() Decision {
	if m.in.EndingSince.IsZero() && Ending(m.in) {
		m.in.EndingSince = m.in.Now
	}
	d := Decide(m.in)
	for _, s := range d.Steps {
		m.begin(s)
	}
	if d.Stopped {
		m.in.Published = true
	}
	m.finished = d.Finished
	return d
}

func (m *model) begin(s Step) {
	m.trace("%s", describe(s, m.in.Now))
	if c, ok := s.(Cancel); ok {
		delete(m.busy, c.Op)
		delete(m.in.Busy, c.Op)
		return
	}
	m.busy[s.Key()] = s
	m.in.Busy[s.Key()] = time.Time{}
	if k, ok := s.(KillContainer); ok {
		m.in.Busy[s.Key()] = k.Deadline
	}
}

// complete ends a step under way, well or badly.
func (m *model) complete(key string) {
	s := m.busy[key]
	delete(m.busy, key)
	delete(m.in.Busy, key)
	if reason, bad := m.refused[key]; bad {
		m.in.Failures[key] = Failure{Reason: reason, Message: "refused", At: m.in.Now, Times: m.in.Failures[key].Times + 1}
		m.trace("  %s fails: %s", key, reason)
		return
	}
	delete(m.in.Failures, key)
	m.effect(s)
}

func (m *model) effect(s Step) {
	w := &m.in.World
	switch s := s.(type) {
	case MountVolumes:
		m.in.Mounted = true
	case RunSandbox:
		m.serial++
		w.Sandboxes = append([]Sandbox{{ID: fmt.Sprintf("box%d", s.Attempt), Attempt: s.Attempt, Ready: true, CreatedAt: m.in.Now}}, w.Sandboxes...)
	case StartContainer:
		m.serial++
		w.Containers = append(w.Containers, Container{
			ID: fmt.Sprintf("%s#%d", s.Name, s.Attempt), Name: s.Name, Sandbox: s.Sandbox, Attempt: s.Attempt, Crashes: s.Crashes,
			State: Running, Hash: Hash(m.spec(s.Name)), CreatedAt: m.in.Now, StartedAt: m.in.Now,
		})
	case KillContainer:
		m.exit(s.ID, 137)
	case StopSandbox:
		for i := range w.Sandboxes {
			if w.Sandboxes[i].ID == s.ID {
				w.Sandboxes[i].Ready = false
			}
		}
	case RemoveContainer:
		m.remove(func(c Container) bool { return c.ID == s.ID })
	case RemoveSandbox:
		m.remove(func(c Container) bool { return c.Sandbox == s.ID })
		for i := range w.Sandboxes {
			if w.Sandboxes[i].ID == s.ID {
				w.Sandboxes = append(append([]Sandbox{}, w.Sandboxes[:i]...), w.Sandboxes[i+1:]...)
				break
			}
		}
	case ReleaseVolumes:
		m.in.Released, m.in.Mounted = true, false
	case DeleteObject:
		m.deleted, m.in.Gone = true, true
	}
}

func (m *model) remove(which func(Container) bool) {
	var kept []Container
	for _, c := range m.in.World.Containers {
		if !which(c) {
			kept = append(kept, c)
		}
	}
	m.in.World.Containers = kept
}

func (m *model) spec(name string) *corev1.Container {
	for _, list := range [][]corev1.Container{m.in.Pod.Spec.InitContainers, m.in.Pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	panic("no container " + name)
}

// exit ends a running container.
func (m *model) exit(id string, code int32) {
	for i := range m.in.World.Containers {
		if c := &m.in.World.Containers[i]; c.ID == id && c.State == Running {
			c.State, c.ExitCode, c.FinishedAt = Exited, code, m.in.Now
		}
	}
}

// running returns the running containers' IDs, sorted.
func (m *model) running() []string {
	var out []string
	for _, c := range m.in.World.Containers {
		if c.State == Running {
			out = append(out, c.ID)
		}
	}
	sort.Strings(out)
	return out
}

// under returns the keys of the steps under way, sorted.
func (m *model) under() []string {
	out := make([]string, 0, len(m.busy))
	for key := range m.busy {
		out = append(out, key)
	}
	sort.Strings(out)
	return out
}

func (m *model) delete(grace int64) {
	pod := m.in.Pod.DeepCopy()
	if pod.DeletionTimestamp == nil {
		at := metav1.NewTime(m.in.Now.Add(time.Duration(grace) * time.Second))
		pod.DeletionTimestamp = &at
	}
	pod.DeletionGracePeriodSeconds = &grace
	m.in.Pod = pod
}

// describe prints a step as scenarios read.
func describe(s Step, now time.Time) string {
	switch s := s.(type) {
	case MountVolumes:
		return "mount volumes"
	case RunSandbox:
		return fmt.Sprintf("run sandbox, attempt %d", s.Attempt)
	case StartContainer:
		return fmt.Sprintf("start %s#%d in %s, crashes %d", s.Name, s.Attempt, s.Sandbox, s.Crashes)
	case KillContainer:
		text := fmt.Sprintf("kill %s within %s", s.ID, max(s.Deadline.Sub(now), 0))
		if s.PreStop {
			text += " after its hook"
		}
		if s.Message != "" {
			text += ": " + s.Message
		}
		return text
	case StopSandbox:
		return "stop sandbox " + s.ID
	case RemoveContainer:
		return "remove container " + s.ID
	case RemoveSandbox:
		return "remove sandbox " + s.ID
	case ReleaseVolumes:
		return "release volumes"
	case DeleteObject:
		return "delete the object"
	case Cancel:
		return "cancel " + s.Op
	}
	return fmt.Sprintf("%T", s)
}

// parsePod reads a pod from words such as "Never init:a side:b main startup:b liveness".
func parsePod(words []string) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: "default", UID: "u"},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace},
	}
	always := corev1.ContainerRestartPolicyAlways
	for _, word := range words {
		kind, name, _ := strings.Cut(word, ":")
		switch kind {
		case "Always", "OnFailure", "Never":
			pod.Spec.RestartPolicy = corev1.RestartPolicy(kind)
		case "init":
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: name, Image: "i"})
		case "side":
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: name, Image: "i", RestartPolicy: &always})
		case "sidewait": // a sidecar with a startup probe
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: name, Image: "i", RestartPolicy: &always, StartupProbe: &corev1.Probe{}})
		case "main":
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: "i"})
		case "hooked": // with a postStart hook
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: "i", Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}})
		case "deadline":
			var n int64
			if _, err := fmt.Sscan(name, &n); err != nil {
				panic(err)
			}
			pod.Spec.ActiveDeadlineSeconds = &n
			at := metav1.NewTime(epoch)
			pod.Status.StartTime = &at
		default:
			panic("unknown word " + word)
		}
	}
	return pod
}
