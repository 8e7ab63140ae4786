package simnode

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The annotations that shape the life of a pod on a simulated node. On the node itself each of
// them is the default of its pods.
const (
	prefix = "coracle.io/sim-"
	// StartAfter is how long after it was bound a pod's containers start.
	StartAfter = prefix + "start-after"
	// ReadyAfter is how long after their start the containers become ready.
	ReadyAfter = prefix + "ready-after"
	// NeverReady keeps running containers from becoming ready.
	NeverReady = prefix + "never-ready"
	// ImagePullError makes every pull of the pod's images fail.
	ImagePullError = prefix + "image-pull-error"
	// CrashAfter is how long after each start the containers end as a crash does (exit code 1
	// unless ExitCode says otherwise).
	CrashAfter = prefix + "crash-after"
	// FinishAfter is how long after each start the containers end having done their work (exit
	// code 0 unless ExitCode says otherwise).
	FinishAfter = prefix + "finish-after"
	// ExitCode is with which code containers end, 0 to 255.
	ExitCode = prefix + "exit-code"
	// TerminateAfter is how long after its deletion a pod takes to end, within its grace period.
	TerminateAfter = prefix + "terminate-after"
)

// Fault, on a node, is what is wrong with it: FaultSilent is all there is.
const (
	Fault = prefix + "fault"
	// FaultSilent stops the node's heartbeats and the life of its pods, as a lost machine does.
	FaultSilent = "silent"
)

// Problem is a value that cannot be used. The default is used in its place.
type Problem struct {
	Annotation, Value string
	// Want says what a usable value looks like.
	Want string
}

// String says what is wrong and how to set it right.
func (p Problem) String() string {
	return fmt.Sprintf("annotation %s: %q is not %s; ignored", p.Annotation, p.Value, p.Want)
}

// Annotated is a behavior as the annotations of a pod, or of its node where it has none, make it of another. Problems are
// those of the pod's own.
func Annotated(b Behavior, pod *corev1.Pod, node *corev1.Node) (Behavior, []Problem) {
	r := reader{uid: pod.UID}
	if shaped(pod.Annotations) {
		r.own = pod.Annotations
	}
	if shaped(node.Annotations) {
		r.fallback = node.Annotations
	}
	if r.own == nil && r.fallback == nil {
		return b, nil
	}
	r.delay(StartAfter, &b.StartAfter)
	r.delay(ReadyAfter, &b.ReadyAfter)
	r.delay(TerminateAfter, &b.StopAfter)
	if on, ok := r.yes(NeverReady); ok {
		b.NeverReady = on
	}
	if on, ok := r.yes(ImagePullError); ok {
		b.PullError, b.PullBackOff = "", ""
		if on {
			b.PullError = pullMessage
		}
	}
	r.ends(&b)
	return b, r.problems
}

// ends reads whether and how containers end by themselves.
func (r *reader) ends(b *Behavior) {
	crash, crashes := r.duration(CrashAfter)
	finish, finishes := r.duration(FinishAfter)
	switch {
	case crashes && (!finishes || crash < finish):
		b.Ends, b.EndAfter, b.ExitCode = true, crash, 1
	case finishes && !(b.Ends && b.EndAfter < finish):
		b.Ends, b.EndAfter, b.ExitCode = true, finish, 0
	}
	if code, ok := r.code(ExitCode); ok {
		b.ExitCode = code
	}
}

func (r *reader) delay(name string, d *time.Duration) {
	if v, ok := r.duration(name); ok {
		*d = v
	}
}

// NodeProblems are the unusable values among a node's own annotations.
func NodeProblems(node *corev1.Node) []Problem {
	r := reader{own: node.Annotations}
	problems := r.check()
	if fault := node.Annotations[Fault]; fault != "" && fault != FaultSilent {
		problems = append(problems, Problem{Fault, fault, strconv.Quote(FaultSilent)})
	}
	return problems
}

// Shape is all that annotations say of the life of pods, as a value to compare.
func Shape(annotations map[string]string) string {
	if !shaped(annotations) {
		return ""
	}
	var parts []string
	for key, value := range annotations {
		if strings.HasPrefix(key, prefix) {
			parts = append(parts, key+"="+value)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "\x00")
}

// shaped says whether any annotation is ours: most pods have none, and need no reading.
func shaped(annotations map[string]string) bool {
	for key := range annotations {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

type reader struct {
	uid           types.UID
	own, fallback map[string]string
	problems      []Problem
}

// read parses the pod's value of an annotation, or the node's where that is absent or unusable.
func read[T any](r *reader, name, want string, parse func(string) (T, bool)) (T, bool) {
	if raw, ok := r.own[name]; ok {
		if v, ok := parse(raw); ok {
			return v, true
		}
		r.problems = append(r.problems, Problem{name, raw, want})
	}
	if raw, ok := r.fallback[name]; ok {
		return parse(raw)
	}
	var none T
	return none, false
}

func (r *reader) duration(name string) (time.Duration, bool) {
	return read(r, name, `a duration such as "5s", or a range such as "1s-5s"`, func(raw string) (time.Duration, bool) {
		low, high, ok := durations(raw)
		if !ok || low == high {
			return low, ok
		}
		return low + spread(r.uid, name, high-low), true
	})
}

func (r *reader) yes(name string) (on, ok bool) {
	return read(r, name, `"true" or "false"`, strictBool)
}

func strictBool(raw string) (value, ok bool) { return raw == "true", raw == "true" || raw == "false" }

func (r *reader) code(name string) (int32, bool) {
	return read(r, name, "an exit code from 0 to 255", func(raw string) (int32, bool) {
		n, err := strconv.ParseUint(raw, 10, 8)
		return int32(n), err == nil
	})
}

// check reads every annotation for its problems alone.
func (r *reader) check() []Problem {
	for _, name := range []string{StartAfter, ReadyAfter, TerminateAfter, CrashAfter, FinishAfter} {
		r.duration(name)
	}
	r.yes(NeverReady)
	r.yes(ImagePullError)
	r.code(ExitCode)
	return r.problems
}

// durations reads "5s" or "1s-5s".
func durations(raw string) (low, high time.Duration, ok bool) {
	first, second, ranged := strings.Cut(raw, "-")
	low, err := time.ParseDuration(strings.TrimSpace(first))
	if err != nil || low < 0 {
		return 0, 0, false
	}
	if !ranged {
		return low, low, true
	}
	high, err = time.ParseDuration(strings.TrimSpace(second))
	return low, high, err == nil && low <= high
}

// spread chooses between zero and most, in milliseconds: the same for the same pod and annotation.
func spread(uid types.UID, name string, most time.Duration) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(uid))
	h.Write([]byte(name))
	// The low bits of FNV differ little between UIDs that differ little: fold the high ones in.
	sum := h.Sum64()
	sum ^= sum >> 33
	steps := cmp.Or(uint64(most/time.Millisecond), 1)
	return min(time.Duration(sum%(steps+1))*time.Millisecond, most)
}
