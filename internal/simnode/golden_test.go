package simnode

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"coracle/internal/podstate"
)

var update = flag.Bool("update", false, "rewrite the expected lives of testdata")

// epoch is when the pods of the scripts are bound, not on a whole second: the API records those.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 300_000_000, time.UTC)

// TestLives plays each testdata/*.txtar, a pod's life in sections:
//
//	pod, node       the objects; the node may be left out
//	until 40s       lives on until then; holds each step that wrote something
//	edit            changes the pod; holds the part of it that replaces what was
//	drop NAME       takes an annotation off the pod
//	delete 30       asks for the pod's deletion with so many seconds of grace
//	restart         forgets all that is not in the objects
//	reboot          takes the node's power away and gives it back
//	evict WHY       has the node end the pod to help itself
//	unready 5s      has the pod's probes fail for so long
//	status          holds the whole status
func TestLives(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no lives: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newScript(t)
			for i := range archive.Files {
				section := &archive.Files[i]
				got, told := s.play(section.Name, section.Data)
				if !told {
					continue
				}
				if *update {
					section.Data = []byte(got)
				} else if d := cmp.Diff(string(section.Data), got); d != "" {
					t.Errorf("%s (-want +got):\n%s", section.Name, d)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

type script struct {
	t          *testing.T
	pod        *corev1.Pod
	node       *corev1.Node
	now, since time.Time
	// again is when the last step asked to look again; changed asks for a look at once.
	again   time.Time
	changed bool
	gone    bool
	// befallen is what has befallen the pod and its node: the input's fields for that.
	befallen Input
}

func newScript(t *testing.T) *script {
	return &script{
		t: t, now: epoch, since: epoch, changed: true,
		node: &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}}},
	}
}

func (s *script) play(name string, body []byte) (out string, told bool) {
	word, arg, _ := strings.Cut(name, " ")
	switch word {
	case "pod":
		s.pod = &corev1.Pod{}
		s.parse(body, s.pod)
		s.pod.Namespace, s.pod.UID, s.pod.Generation, s.pod.CreationTimestamp = "ns", "u", 1, second(epoch)
		s.pod.Status.Phase = corev1.PodPending
		s.pod.Status.Conditions = append(s.pod.Status.Conditions, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: second(epoch),
		})
		if s.pod.Spec.RestartPolicy == "" {
			s.pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
		}
	case "node":
		s.parse(body, s.node)
	case "edit":
		s.pod = s.pod.DeepCopy()
		s.parse(body, s.pod)
		s.pod.Generation++
		s.changed = true
	case "drop":
		s.pod = s.pod.DeepCopy()
		delete(s.pod.Annotations, arg)
		s.changed = true
	case "delete":
		s.delete(arg)
	case "restart":
		s.since, s.changed = time.Time{}, true
	case "reboot":
		s.befallen.Rebooted, s.changed = true, true
	case "evict":
		s.befallen.Evicted, s.changed = arg, true
	case "unready":
		d, err := time.ParseDuration(arg)
		if err != nil {
			s.t.Fatal(err)
		}
		s.befallen.UnreadyUntil, s.changed = s.now.Add(d), true
	case "until":
		return s.live(arg), true
	case "status":
		raw, err := yaml.Marshal(s.pod.Status)
		if err != nil {
			s.t.Fatal(err)
		}
		return string(raw), true
	default:
		s.t.Fatalf("unknown section %q", name)
	}
	return "", false
}

func (s *script) parse(body []byte, into any) {
	s.t.Helper()
	if err := yaml.UnmarshalStrict(body, into); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) delete(arg string) {
	grace, err := strconv.ParseInt(arg, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	at := metav1.NewTime(second(s.now).Add(time.Duration(grace) * time.Second))
	s.pod = s.pod.DeepCopy()
	s.pod.DeletionTimestamp, s.pod.DeletionGracePeriodSeconds = &at, &grace
	s.since, s.changed = s.now, true
}

// live plays steps until a moment and says what each wrote.
func (s *script) live(arg string) string {
	for_, err := time.ParseDuration(arg)
	if err != nil {
		s.t.Fatal(err)
	}
	end := epoch.Add(for_)
	var b strings.Builder
	for range 1000 {
		if s.gone || !s.changed && (s.again.IsZero() || s.again.After(end)) {
			s.now = end
			return b.String()
		}
		if !s.changed {
			s.now = s.again
		}
		s.changed = false
		s.step(&b)
	}
	s.t.Fatalf("no rest:\n%s", b.String())
	return ""
}

func (s *script) step(b *strings.Builder) {
	before := s.pod.DeepCopy()
	in := s.befallen
	in.Pod, in.Node, in.Address, in.Since, in.Now = s.pod, s.node, netip.MustParseAddr("10.0.0.2"), s.since, s.now
	step := Next(in)
	s.befallen.Rebooted = false
	if d := cmp.Diff(before, s.pod); d != "" {
		s.t.Fatalf("the step changed its input: %s", d)
	}
	if !step.Again.IsZero() && !step.Again.After(s.now) {
		s.t.Fatalf("at %s look again at %s", s.now, step.Again)
	}
	s.again = step.Again
	if step.Status != nil {
		s.pod = s.pod.DeepCopy()
		s.pod.Status = *step.Status.DeepCopy()
		s.since = step.Since
		s.changed = true // the change is seen, and must ask for no other
		s.tell(b, "%s", summary(s.pod))
		for _, p := range step.Problems {
			s.tell(b, "problem: %s", p)
		}
	}
	for _, told := range step.Told {
		s.tell(b, "event %s %s: %s", told.Type, told.Reason, told.Message)
	}
	if step.Gone {
		s.gone = true
		s.tell(b, "gone")
	}
}

func (s *script) tell(b *strings.Builder, format string, args ...any) {
	fmt.Fprintf(b, "%-6s %s\n", s.now.Sub(epoch), fmt.Sprintf(format, args...))
}

func summary(pod *corev1.Pod) string {
	var b strings.Builder
	b.WriteString(string(pod.Status.Phase))
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		if c := podstate.Condition(pod, kind); c != nil && c.Status == corev1.ConditionTrue {
			b.WriteString(" " + string(kind))
		}
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			c := &list[i]
			fmt.Fprintf(&b, ", %s ", c.Name)
			switch {
			case c.State.Waiting != nil:
				b.WriteString(c.State.Waiting.Reason)
			case c.State.Running != nil:
				b.WriteString("runs")
			case c.State.Terminated != nil:
				fmt.Fprintf(&b, "%s(%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
			}
			if c.Ready {
				b.WriteString(" ready")
			}
			if c.RestartCount > 0 {
				fmt.Fprintf(&b, " restarts=%d", c.RestartCount)
			}
		}
	}
	return b.String()
}
