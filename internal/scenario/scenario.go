// Package scenario runs golden scenarios for planners: testdata/*.txtar files that read as a
// dialogue between a user, a model world and the planners, with the plans spelled out.
//
// It owns the file format. The text before the first section describes the case; each section
// header is a command and its body the command's input or its expected output. Names may be
// globs where several objects are meant; the namespace is "default" unless the name has one.
//
//	-- given --                  YAML objects to create or replace (defaults and UIDs filled in;
//	                             owner references may leave out the UID)
//	-- at 10m --                 move the clock to ten minutes past the start (2026-01-01T00:00:00Z)
//	-- pass 30s --               let time pass
//	-- stop 62s --               let time pass in which the server does not run, as under SIGSTOP; then it goes on
//	-- restart --                the server starts anew, and remembers nothing that it saw
//	-- set 3h --                 move the time of day alone (also back: -3h): a suspended machine, a clock that is set
//	-- plan deployment web --    expect this plan, then carry it out
//	-- why deployment web --     expect this explanation; nothing is carried out
//	-- settle --                 expect these actions and events: all planners run until nothing changes
//	-- show pods --              expect this summary of all objects of a kind
//	-- images web-* --           expect these pods with their images
//	-- edit deployment web --    apply the body, a YAML merge patch (status included)
//	-- schedule web-* node-1 --  put pods on a node
//	-- ready web-* --            pods are scheduled if need be, run and become ready now; unready: the opposite
//	-- crash web-* --            pods go into CrashLoopBackOff
//	-- fail web-* --             pods end in phase Failed
//	-- delete pods web-1 --      delete as a user would
//	-- gone web-* --             nodes finish with terminating pods: they vanish
//	-- remove nodes n1 --        an object vanishes at once
//	-- collect --                garbage collection
//	-- refuse create pods --     from now on the API refuses such actions (Forbidden) with the body as its message;
//	                            a cause and the name of what causes it may follow (QuotaExceeded q)
//	-- allow --                  it no longer does
//
// A command that expects nothing may have free text as its body. With -update the expected
// outputs are rewritten. It refuses to judge: a changed plan is for the reader of the diff.
package scenario

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/scenario/model"
)

var update = flag.Bool("update", false, "rewrite the expected outputs of golden scenarios")

// Epoch is when every scenario begins.
var Epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Run runs every scenario of a folder with these planners, each as a subtest.
func Run(t *testing.T, folder string, controllers ...plan.Controller) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios in %s (%v)", folder, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			runFile(t, file, controllers)
		})
	}
}

func runFile(t *testing.T, file string, controllers []plan.Controller) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	archive := txtar.Parse(raw)
	s := &script{world: model.New(Epoch, controllers...), controllers: controllers,
		last: map[lastKey]*plan.Failure{}}
	for i := range archive.Files {
		section := &archive.Files[i]
		got, err := s.run(section.Name, string(section.Data))
		if err != nil {
			t.Fatalf("section %d, %q: %v", i+1, section.Name, err)
		}
		if got == nil {
			continue
		}
		if *update {
			section.Data = []byte(*got)
		} else if diff := cmp.Diff(string(section.Data), *got); diff != "" {
			t.Errorf("section %d, %q: (-want +got)\n%s", i+1, section.Name, diff)
		}
	}
	if out := txtar.Format(archive); *update && !bytes.Equal(out, raw) {
		if err := os.WriteFile(file, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

type lastKey struct {
	controller string
	key        object.Key
}

// script is the state between sections.
type script struct {
	world       *model.World
	controllers []plan.Controller
	last        map[lastKey]*plan.Failure
}

// run carries out one section. A result that is not nil is the output to compare with the body.
func (s *script) run(header, body string) (*string, error) {
	verb, rest, _ := strings.Cut(header, " ")
	args := strings.Fields(rest)
	if c, ok := commands[verb]; ok {
		if len(args) < c.args {
			return nil, fmt.Errorf("%s needs %d words after it", verb, c.args)
		}
		return c.run(s, args, body)
	}
	return nil, fmt.Errorf("no such command: %s", verb)
}

// plan asks the controller of a kind for its decision about one object.
func (s *script) plan(c plan.Controller, key object.Key) plan.Plan {
	return c.Plan(plan.Input{Reader: s.world, Key: key, Now: s.world.Now, Witness: s.world.Witness(), Last: s.last[lastKey{c.Name, key}]})
}

// carryOut makes a decision, carries it out, and remembers a refusal for the next one. First sees the plan before its
// actions, instead the one that is made after a refusal.
func (s *script) carryOut(c plan.Controller, key object.Key, first, instead func(plan.Plan)) model.Outcome {
	k := lastKey{c.Name, key}
	// An answer that usually means an old snapshot is final: there is no older one here.
	task := loop.Task{Controller: &c, Key: key, Last: s.last[k], Tries: loop.QuietTries + 1}
	see := first
	run := loop.Begin(task, func(t loop.Task) loop.Decision {
		d := loop.Decide(t, s.world, s.world.Now, s.world.Witness())
		see(d.Plan)
		see = instead
		return d
	})
	s.world.Hand = c.Name
	out := s.world.Carry(run)
	s.world.Hand = ""
	s.last[k] = out.Failure
	return out
}

func (s *script) controller(kind string) (plan.Controller, error) {
	for _, c := range s.controllers {
		if strings.EqualFold(c.For.Kind, kind) || c.For.Plural == kind {
			return c, nil
		}
	}
	return plan.Controller{}, fmt.Errorf("no planner for kind %s in this test", kind)
}

// settle lets all planners run until a whole round changes nothing.
func (s *script) settle() (string, error) {
	var log strings.Builder
	for range 200 {
		moved := false
		for _, c := range s.controllers {
			for _, o := range s.world.List(c.For, "") {
				key := object.KeyOf(o)
				out := s.carryOut(c, key, func(p plan.Plan) {
					moved = moved || len(p.Actions) > 0 || p.Status != nil
					writeActions(&log, s.world, p)
				}, func(plan.Plan) {})
				writeEvents(&log, out.Events)
				if out.Failure != nil {
					fmt.Fprintf(&log, "refused: %s\n", out.Failure.Status.Message)
					return log.String(), nil
				}
			}
		}
		if !moved {
			return log.String(), nil
		}
	}
	return log.String(), fmt.Errorf("the planners do not come to rest:\n%s", log.String())
}

// refusal is an answer with the cause, and the name of what causes it, that a command gives after its first words.
func refusal(message string, cause []string) *metav1.Status {
	s := &metav1.Status{Status: metav1.StatusFailure, Code: 403, Reason: metav1.StatusReasonForbidden, Message: message}
	if len(cause) == 2 {
		s.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{
			{Type: metav1.CauseType(cause[0]), Field: cause[1], Message: message}}}
	}
	return s
}
