package why

import (
	"slices"
	"strings"
)

// notFound is the reason of a cause that is an object that does not exist.
const notFound = "NotFound"

// causes returns the ends of the chain below an entry. Those that nothing explains further come
// first; symptoms count only when there is nothing else.
func causes(e *Entry) []Cause {
	type ranked struct {
		Cause
		symptom bool
	}
	var all []ranked
	var walk func(e *Entry)
	walk = func(e *Entry) {
		if e.Missing {
			all = append(all, ranked{Cause: Cause{Subject: e.Subject, Reason: notFound, Message: "does not exist"}})
		}
		for i := range e.Waits {
			w := &e.Waits[i]
			if w.Because != nil && (w.Because.Missing || len(w.Because.Waits) > 0) {
				before := len(all)
				walk(w.Because)
				if len(all) == before+1 {
					all[before].inherit(w)
				}
				continue
			}
			c := Cause{Subject: e.Subject, Reason: w.Reason, Message: w.Message, Since: w.Since, Hint: w.Hint}
			if w.On != nil && w.Because != nil {
				c.Subject = *w.On
			}
			all = append(all, ranked{c, symptoms[w.Reason] || w.told})
		}
	}
	walk(e)
	real := slices.ContainsFunc(all, func(r ranked) bool { return !r.symptom })
	var out []Cause
	for _, r := range all {
		if r.symptom && real || slices.ContainsFunc(out, func(c Cause) bool { return c.same(r.Cause) }) {
			continue
		}
		out = append(out, r.Cause)
	}
	return out
}

// inherit gives the one cause found below a wait the wait's own hint and beginning, where it has none.
func (c *Cause) inherit(w *Wait) {
	if c.Hint == "" {
		c.Hint = w.Hint
	}
	if c.Since == nil {
		c.Since = w.Since
	}
}

// same says that two causes tell a user the same: pods of one set often fail alike.
func (c Cause) same(d Cause) bool {
	return c.Kind == d.Kind && c.Reason == d.Reason && withoutName(c.Message, c.Name) == withoutName(d.Message, d.Name)
}

func withoutName(text, name string) string { return strings.ReplaceAll(text, name, "*") }
