package rehearse

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"coracle/internal/plan"
)

// Text writes a report for people. where is what the cluster is called.
func (r *Report) Text(out io.Writer, where string) error {
	t := &text{}
	t.put("Rehearsal on %s (%s, %s): nothing was changed.", where, count(r.Nodes, "node"), count(r.Pods, "pod"))
	t.assumptions(r)
	t.put("")
	t.timeline(r)
	if len(r.Writes) > 0 {
		t.put("")
		t.writes(r)
	}
	if len(r.Workloads) > 0 {
		t.put("")
		t.workloads(r)
	}
	t.put("")
	t.pods(r)
	t.limits(r)
	t.verdict(r)
	_, err := io.WriteString(out, t.b.String())
	return err
}

type text struct{ b strings.Builder }

func (t *text) put(format string, args ...any) {
	t.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

// table writes rows with their cells aligned; the last cell of a row is as long as it likes.
func (t *text) table(rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row[:len(row)-1] {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += cell
			if i < len(row)-1 {
				line += strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+3)
			}
		}
		t.put("%s", line)
	}
}

// fewImages is how many assumptions are spelled out.
const fewImages = 4

func (t *text) assumptions(r *Report) {
	var parts []string
	for i, a := range r.Assumptions {
		if i == fewImages {
			parts = append(parts, fmt.Sprintf("%d more images (see -o json)", len(r.Assumptions)-i))
			break
		}
		parts = append(parts, a.String())
	}
	if len(parts) > 0 {
		t.put("Assumed: %s.", strings.Join(parts, "; "))
	}
	for _, note := range r.Notes {
		t.put("Note: %s.", note)
	}
}

func (t *text) timeline(r *Report) {
	if len(r.Timeline) == 0 {
		t.put("Nothing happens.")
		return
	}
	rows := [][]string{{"TIME", "OBJECT", "WHAT"}}
	for _, e := range r.Timeline {
		at := brief(during(e.At))
		if e.Until > 0 {
			at += "-" + brief(during(e.Until))
		}
		rows = append(rows, []string{at, e.subject(), e.What + e.where()})
	}
	t.table(rows)
}

func (t *text) writes(r *Report) {
	rows := [][]string{{"TIME", "BY", "WRITE", "BECAUSE"}}
	for _, w := range r.Writes {
		rows = append(rows, []string{brief(during(w.At)), w.By, w.Verb + " " + w.Object, w.Because})
	}
	t.table(rows)
}

func (t *text) workloads(r *Report) {
	rows := [][]string{{"WORKLOAD", "BEFORE", "LOWEST", "AFTER", "TOOK"}}
	for _, w := range r.Workloads {
		lowest := w.Lowest.String()
		if w.LowestAt != nil {
			lowest += " at " + brief(during(*w.LowestAt))
		}
		took := "-"
		switch {
		case w.After == nil:
			took = "deleted"
		case w.Took != nil:
			took = brief(during(*w.Took))
		case w.State != plan.Steady:
			took = strings.ToLower(string(w.State))
		}
		rows = append(rows, []string{w.Name, w.Before.String(), lowest, w.After.String(), took})
	}
	t.table(rows)
}

// String prints "3/4", or "-" where there is none.
func (a *Amount) String() string {
	if a == nil {
		return "-"
	}
	return fmt.Sprintf("%d/%d", a.Available, a.Wanted)
}

const fewMoves = 3

func (t *text) pods(r *Report) {
	moved, parts := 0, []string(nil)
	for i, m := range r.Moved {
		moved += m.Pods
		switch {
		case i < fewMoves:
			part := fmt.Sprintf("%s: %s → %s", m.Workload, m.From, m.To)
			if m.Pods > 1 {
				part += fmt.Sprintf(" ×%d", m.Pods)
			}
			parts = append(parts, part)
		case i == fewMoves:
			parts = append(parts, "…")
		}
	}
	line := fmt.Sprintf("Pods: %d created, %d deleted", r.Created, r.Deleted)
	if moved > 0 {
		line += fmt.Sprintf("; %d of them moved (%s)", moved, strings.Join(parts, ", "))
	}
	t.put("%s.", line)
}

func (t *text) limits(r *Report) {
	if len(r.Budgets) == 0 && len(r.Quotas) == 0 {
		t.put("Budgets: none hit. Quotas: none hit.")
		return
	}
	for _, b := range r.Budgets {
		if h := b.Held; h != nil {
			t.put("Budget %s holds up the drain of %s from %s to %s: it needs %d healthy pods and had %d.",
				b.Budget, h.Node, brief(during(h.From)), brief(during(h.Until)), h.Needs, h.Healthy)
		}
		if s := b.Below; s != nil {
			until := "and stays so"
			if s.Until != nil {
				until = "to " + brief(during(*s.Until))
			}
			t.put("Budget %s is below its minimum from %s %s: %d healthy at the least, %d needed.", b.Budget, brief(during(s.From)), until, s.Healthy, s.Needs)
		}
	}
	if len(r.Budgets) == 0 {
		t.put("Budgets: none hit.")
	}
	for _, q := range r.Quotas {
		t.put("Quota %s refuses at %s: %s.", q.Quota, brief(during(q.At)), q.Message)
	}
	if len(r.Quotas) == 0 {
		t.put("Quotas: none hit.")
	}
}

func (t *text) verdict(r *Report) {
	if len(r.Before) > 0 {
		var names []string
		for _, b := range r.Before {
			names = append(names, b.Object.Subject.String())
		}
		t.put("Not steady before, and not changed: %s.", strings.Join(names, ", "))
	}
	if r.Converges {
		t.put("Converges in %s.", brief(during(r.Took)))
		return
	}
	t.put("Would not converge within %s:", brief(during(r.Within)))
	for _, refused := range r.Refused {
		t.put("  %s", refused)
	}
	for _, report := range r.Stuck {
		var b strings.Builder
		if err := report.Text(&b); err != nil {
			continue // a Builder does not fail
		}
		t.put("")
		for line := range strings.Lines(b.String()) {
			t.put("  %s", strings.TrimRight(line, "\n"))
		}
	}
}
