package rehearse

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/nodestate"
	"coracle/internal/podstate"
	"coracle/internal/simnode"
)

// Assumption is how the pods of one image are expected to fare, and why.
type Assumption struct {
	Image string `json:"image"`
	// Ready is how many seconds after their start they are ready; it means nothing when they Fail.
	Ready float64 `json:"readyAfterSeconds"`
	// Fails is why they do not become ready; empty when they do.
	Fails string `json:"fails,omitempty"`
	// Because says where that is from.
	Because string `json:"because"`
}

// How pods fare of which nothing is known.
const (
	readyDefault = time.Second
	stopDefault  = time.Second
	// A pod that is not ready after twice its expected time, and some, is not expected to become so.
	slowFactor, slowMargin = 2, 10 * time.Second
)

// assumptions are what the cluster shows of images.
type assumptions struct {
	start       time.Time
	ready, stop *time.Duration
	seen        map[string]*seen
	used        map[string]Assumption
	simulated   bool
	// failing holds the pods that were there, and whether they fail.
	failing map[types.UID]bool
}

// seen is what is seen of one image.
type seen struct {
	times []time.Duration
	ready int
	fails string
	// slow is for how long a pod has been running without being ready.
	slow time.Duration
}

func observe(in Input) *assumptions {
	a := &assumptions{start: in.Start, ready: in.ReadyAfter, stop: in.StopAfter, seen: map[string]*seen{}, used: map[string]Assumption{},
		failing: map[types.UID]bool{}}
	simulated := map[string]bool{}
	for _, o := range in.Objects {
		if node, ok := o.(*corev1.Node); ok && nodestate.Simulated(node) {
			simulated[node.Name] = true
		}
	}
	for _, o := range in.Objects {
		pod, ok := o.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil {
			continue
		}
		_, a.failing[pod.UID] = failingReason(pod)
		if !simulated[pod.Spec.NodeName] {
			a.see(pod)
		}
	}
	return a
}

func (a *assumptions) of(image string) *seen {
	s := a.seen[image]
	if s == nil {
		s = &seen{}
		a.seen[image] = s
	}
	return s
}

// see takes in a pod of a node that is no play.
func (a *assumptions) see(pod *corev1.Pod) {
	since, isReady := podstate.ReadySince(pod)
	for i := range pod.Status.ContainerStatuses {
		cs := &pod.Status.ContainerStatuses[i]
		s := a.of(imageOf(pod, cs.Name))
		switch w := cs.State.Waiting; {
		case w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing":
			s.fails = w.Reason
		case isReady:
			s.ready++
			if r := cs.State.Running; r != nil && cs.RestartCount == 0 && !since.Before(r.StartedAt.Time) {
				s.times = append(s.times, since.Sub(r.StartedAt.Time))
			}
		case cs.State.Running != nil && a.start.Sub(cs.State.Running.StartedAt.Time) > slowMargin:
			s.slow = max(s.slow, a.start.Sub(cs.State.Running.StartedAt.Time))
		}
	}
}

func imageOf(pod *corev1.Pod, container string) string {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == container {
			return pod.Spec.Containers[i].Image
		}
	}
	return ""
}

// crashAfter is how long containers run that crash.
const crashAfter = time.Second

// behavior implements virtual.Config.Behavior: pods that were there keep as they are, where nothing is known to change
// them; of the others, what is assumed. On simulated nodes the annotations go first, and before all goes what was asked.
func (a *assumptions) behavior(pod *corev1.Pod, node *corev1.Node) simnode.Behavior {
	annotated := nodestate.Simulated(node)
	if a.stays(pod, annotated) {
		return simnode.Behavior{Stays: true}
	}
	b := a.expected(pod, annotated)
	if annotated {
		b, _ = simnode.Annotated(b, pod, node)
	}
	if a.ready != nil {
		b.ReadyAfter = *a.ready
	}
	if a.stop != nil {
		b.StopAfter = *a.stop
	}
	return b
}

// stays says that a pod is one that fails now, or that is ready on a node that nobody plays but us.
func (a *assumptions) stays(pod *corev1.Pod, annotated bool) bool {
	failing, there := a.failing[pod.UID]
	return there && pod.DeletionTimestamp == nil && (failing || podstate.Ready(pod) && !annotated)
}

// expected is what is assumed of a pod, and notes that it was where the pod is new.
func (a *assumptions) expected(pod *corev1.Pod, annotated bool) simnode.Behavior {
	var b simnode.Behavior
	if !annotated {
		b.StopAfter = stopDefault
	}
	created := !pod.CreationTimestamp.Time.Before(a.start) && pod.Status.StartTime == nil
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		as := a.assume(c, annotated)
		b.ReadyAfter = max(b.ReadyAfter, time.Duration(as.Ready*float64(time.Second)))
		switch as.Fails {
		case "":
		case "CrashLoopBackOff":
			b.Ends, b.EndAfter, b.ExitCode, b.NeverReady = true, crashAfter, 1, true
		case neverReady:
			b.NeverReady = true
		default:
			b.PullError = "the image " + c.Image + " cannot be pulled here now"
			b.PullBackOff = b.PullError
		}
		if created && !annotated {
			a.used[c.Image] = as
		}
		a.simulated = a.simulated || created && annotated
	}
	if began := startedAt(pod); !annotated && !began.IsZero() && began.Before(a.start) && a.start.Sub(began) > slowFactor*b.ReadyAfter+slowMargin {
		b.NeverReady = b.NeverReady || !podstate.Ready(pod)
	}
	return b
}

func startedAt(pod *corev1.Pod) time.Time {
	var at time.Time
	for i := range pod.Status.ContainerStatuses {
		if r := pod.Status.ContainerStatuses[i].State.Running; r != nil && r.StartedAt.After(at) {
			at = r.StartedAt.Time
		}
	}
	return at
}

// assume is what is assumed of a container.
func (a *assumptions) assume(c *corev1.Container, simulated bool) Assumption {
	as := Assumption{Image: c.Image}
	s := a.seen[c.Image]
	switch {
	case !simulated && s != nil && s.ready == 0 && s.fails != "":
		as.Fails, as.Because = s.fails, "as its pods here do now"
	case !simulated && a.ready == nil && s != nil && s.ready == 0 && s.slow > slowFactor*a.usual(c)+slowMargin:
		as.Fails, as.Because = neverReady, "as its pods here, not ready after "+brief(s.slow.Truncate(time.Second))
	case a.ready != nil:
		as.Ready, as.Because = a.ready.Seconds(), "--ready-after"
	case simulated:
		as.Because = "simulated"
	case s != nil && len(s.times) > 0:
		slices.Sort(s.times)
		as.Ready = s.times[len(s.times)/2].Seconds()
		as.Because = fmt.Sprintf("the median of its %s here", count(len(s.times), "pod"))
	case s != nil:
		as.Ready, as.Because = a.usual(c).Seconds(), "its pods here do not tell"
	case c.ReadinessProbe != nil:
		as.Ready, as.Because = a.usual(c).Seconds(), "new here; its readiness probe"
	default:
		as.Ready, as.Because = a.usual(c).Seconds(), "new here"
	}
	return as
}

// neverReady is how an image fails whose containers run, and are not ready.
const neverReady = "ContainersNotReady"

// usual is how long a container takes of which nothing was seen.
func (a *assumptions) usual(c *corev1.Container) time.Duration {
	if c.ReadinessProbe == nil {
		return readyDefault
	}
	wait := max(c.ReadinessProbe.InitialDelaySeconds, 0)
	if wait == 0 {
		wait = max(c.ReadinessProbe.PeriodSeconds, 1)
	}
	return time.Duration(wait) * time.Second
}

// list returns the assumptions that mattered.
func (a *assumptions) list() []Assumption {
	var out []Assumption
	for _, image := range slices.Sorted(maps.Keys(a.used)) {
		out = append(out, a.used[image])
	}
	return out
}

// String prints "image web:2 ready 1s after start (new here)".
func (a Assumption) String() string {
	if a.Fails != "" {
		return fmt.Sprintf("image %s fails with %s (%s)", a.Image, a.Fails, a.Because)
	}
	return fmt.Sprintf("image %s ready %s after start (%s)", a.Image, brief(time.Duration(a.Ready*float64(time.Second))), a.Because)
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// brief prints a duration in the fewest words: 0s, 12s, 1m30s, 5m, 1h.
func brief(d time.Duration) string {
	if d > 0 && d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
