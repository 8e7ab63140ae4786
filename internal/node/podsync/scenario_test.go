package podsync

import (
	"flag"
	"fmt"
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
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

// TestScenarios plays each testdata/*.txtar: its "script" is what happens, its "trace" what is
// decided. Steps end at once unless the script holds them.
//
//	pod WORDS        the pod, see parsePod
//	hold KEY | go KEY   a step takes until it is let go
//	refuse KEY REASON | allow KEY
//	exit ID CODE, started ID, sick ID Liveness|Startup, sandbox-dies, edit NAME
//	delete GRACE, force, after DURATION
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(archive.Files[0].Data))
			if *update {
				archive.Files = []txtar.File{archive.Files[0], {Name: "trace", Data: []byte(got)}}
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if len(archive.Files) != 2 {
				t.Fatal("no trace: run with -update")
			}
			if diff := cmp.Diff(string(archive.Files[1].Data), got); diff != "" {
				t.Errorf("trace (-want +got):\n%s", diff)
			}
		})
	}
}

type player struct {
	*model
	out  strings.Builder
	held map[string]bool
}

func play(t *testing.T, script string) string {
	t.Helper()
	p := &player{model: newModel(parsePod(nil)), held: map[string]bool{}}
	p.trace = func(format string, args ...any) {
		fmt.Fprintf(&p.out, "%6s  %s\n", p.in.Now.Sub(epoch), fmt.Sprintf(format, args...))
	}
	for line := range strings.Lines(script) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		fmt.Fprintf(&p.out, "> %s\n", strings.Join(words, " "))
		p.event(t, words)
		if len(p.in.Pod.Spec.Containers) > 0 {
			p.run()
		}
	}
	return p.out.String()
}

func (p *player) event(t *testing.T, words []string) {
	t.Helper()
	switch words[0] {
	case "pod":
		p.in.Pod = parsePod(words[1:])
	case "hold":
		p.held[words[1]] = true
	case "go":
		delete(p.held, words[1])
	case "refuse":
		p.refused[words[1]] = words[2]
	case "allow":
		delete(p.refused, words[1])
	case "exit":
		code, err := strconv.Atoi(words[2])
		if err != nil {
			t.Fatal(err)
		}
		p.exit(words[1], int32(code))
	case "started":
		p.in.Probes[words[1]] = Probes{Started: true, Ready: true}
	case "sick":
		p.in.Probes[words[1]] = Probes{Failed: words[2]}
	case "sandbox-dies":
		p.in.World.Sandboxes[0].Ready = false
		for _, id := range p.running() {
			p.exit(id, 137)
		}
	case "edit":
		pod := p.in.Pod.DeepCopy()
		for i := range pod.Spec.Containers {
			if pod.Spec.Containers[i].Name == words[1] {
				pod.Spec.Containers[i].Image += "'"
			}
		}
		p.in.Pod = pod
	case "delete":
		grace, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		p.delete(int64(grace))
	case "draining":
		p.in.Draining = words[1] == "on"
	case "force":
		p.in.Gone = true
	case "forgotten": // the runtime lost everything; the status remembers that main ran
		p.in.World = World{}
		pod := p.in.Pod.DeepCopy()
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: 4, ContainerID: "x://lost",
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(epoch)}}}}
		p.in.Pod = pod
	case "after":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			t.Fatal(err)
		}
		p.pass(d)
	default:
		t.Fatalf("unknown event %q", words[0])
	}
}

// pass lets time go by, stopping wherever a decision asked to look again.
func (p *player) pass(d time.Duration) {
	end := p.in.Now.Add(d)
	for {
		again := p.run()
		if again.IsZero() || again.After(end) {
			break
		}
		p.in.Now = again
	}
	p.in.Now = end
}

// run decides and completes steps until nothing more happens.
func (p *player) run() (again time.Time) {
	for range 100 {
		d := p.decide()
		moved := len(d.Steps) > 0
		for _, key := range p.under() {
			if !p.held[key] {
				p.complete(key)
				moved = true
			}
		}
		if !moved {
			return d.Again
		}
	}
	p.trace("does not come to rest")
	return time.Time{}
}

// BenchmarkDecide: the decision at rest, which every event of a pod costs.
func BenchmarkDecide(b *testing.B) {
	m := newModel(parsePod([]string{"init:a", "side:proxy", "main:web", "main:log"}))
	for range 20 {
		m.decide()
		for _, key := range m.under() {
			m.complete(key)
		}
		m.exit("a#0", 0)
	}
	if d := m.decide(); len(d.Steps) != 0 || len(m.running()) != 3 {
		b.Fatalf("not at rest: %v %v", d.Steps, m.running())
	}
	b.ReportAllocs()
	for b.Loop() {
		Decide(m.in)
	}
}
