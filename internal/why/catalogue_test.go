package why_test

import (
	"fmt"
	"strings"
	"testing"

	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/why"
)

// fault is one line of the catalogue: a fault is planted, the question asked, and code and remedy compared. Where the
// remedy is something that a user does to the cluster, the test does it and asks again: the cause must be gone.
type fault struct {
	name  string
	plant func(*world)
	res   resource.Resource
	of    string
	state plan.State
	// kind, object and code are of the first root cause: its object, by the beginning of its name, and its reason.
	// They are empty for an object that is steady.
	kind, object, code string
	// says and remedy are words of the cause's message and hint; a remedy of "" is none at all.
	says, remedy string
	// never are words that no line of the answer may hold.
	never []string
	// cure does what the remedy says; nil where there is nothing to do but wait, or where it happens outside of the cluster.
	cure func(*world)
}

// TestCatalogue plants each fault of the catalogue, and cures it by its remedy.
func TestCatalogue(t *testing.T) {
	catalogue := [][]fault{rollingFaults, quotaFaults, podFaults, roomFaults, volumeFaults, serviceFaults}
	seen := map[string]bool{}
	for _, f := range concat(catalogue) {
		if seen[f.name] {
			t.Errorf("two cases are called %q", f.name)
		}
		seen[f.name] = true
		t.Run(f.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				f.plant(w)
				report, text := w.why(f.res, f.of)
				if problem := f.judge(report, text); problem != "" {
					w.t.Fatalf("%s:\n%s", problem, text)
				}
				roundTrip(t, report, text)
				if f.cure == nil {
					return
				}
				f.cure(w)
				w.settle()
				if w.absent(f.res, f.of) {
					return // it was to go, and is gone
				}
				if report, text = w.why(f.res, f.of); f.remains(report) {
					w.t.Errorf("the remedy %q leaves the cause:\n%s", f.remedy, text)
				}
			})
		})
	}
}

func concat(lists [][]fault) (all []fault) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

func (f *fault) judge(r *why.Report, text string) string {
	if r.Object.State != f.state {
		return fmt.Sprintf("state %s, want %s", r.Object.State, f.state)
	}
	for _, word := range f.never {
		if strings.Contains(text, word) {
			return fmt.Sprintf("%q is told", word)
		}
	}
	if f.code == "" {
		if len(r.Causes) > 0 {
			return fmt.Sprintf("a cause, %+v", r.Causes[0])
		}
		return ""
	}
	if len(r.Causes) == 0 {
		return "no root cause"
	}
	c := r.Causes[0]
	if !f.is(&c) || !strings.Contains(c.Message, f.says) || !strings.Contains(c.Hint, f.remedy) || f.remedy == "" && c.Hint != "" {
		return fmt.Sprintf("root cause %s %s: %s: %q, to do: %q\nwant %s %s*: %s: %q, to do: %q",
			c.Kind, c.Name, c.Reason, c.Message, c.Hint, f.kind, f.object, f.code, f.says, f.remedy)
	}
	return ""
}

func (f *fault) is(c *why.Cause) bool {
	return c.Kind == f.kind && strings.HasPrefix(c.Name, f.object) && c.Reason == f.code
}

// remains says that the cause is among those that are left.
func (f *fault) remains(r *why.Report) bool {
	for i := range r.Causes {
		if f.is(&r.Causes[i]) && strings.Contains(r.Causes[i].Message, f.says) {
			return true
		}
	}
	return false
}
