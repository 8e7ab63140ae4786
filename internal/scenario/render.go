package scenario

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/claim"
)

func newLineReader(body string) *bufio.Reader { return bufio.NewReader(strings.NewReader(body)) }

// render spells out a plan against the world it was made for.
func render(w *model.World, p plan.Plan) string {
	var b strings.Builder
	writeActions(&b, w, p)
	writeStatus(&b, w, p)
	writeEvents(&b, p.Events)
	if !p.Again.IsZero() {
		fmt.Fprintf(&b, "again at %s\n", clock(p.Again))
	}
	b.WriteString(renderWhy(p.Why))
	return b.String()
}

// writeStatus writes what a plan changes of the status.
func writeStatus(b *strings.Builder, w *model.World, p plan.Plan) {
	if p.Status == nil {
		return
	}
	b.WriteString("status\n")
	if old, ok := w.Get(resource.Of(p.Status), p.Status.GetNamespace(), p.Status.GetName()); ok {
		writeChanges(b, old, p.Status)
	}
}

func renderWhy(why plan.Why) string {
	if why.State == "" {
		return "nothing\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "why %s", why.State)
	if why.Next != "" {
		b.WriteString(": " + why.Next)
	}
	b.WriteString("\n")
	for _, wait := range why.Waits {
		fmt.Fprintf(&b, "  wait %s: %s", wait.Reason, wait.Message)
		if wait.On.Name != "" {
			fmt.Fprintf(&b, " [on %s %s]", wait.On.Resource.Plural, wait.On.Name)
		}
		if !wait.Since.IsZero() {
			fmt.Fprintf(&b, " [since %s]", clock(wait.Since))
		}
		b.WriteString("\n")
		if wait.Hint != "" {
			b.WriteString("    hint: " + wait.Hint + "\n")
		}
	}
	return b.String()
}

// writeActions writes one line for each action, equal neighbours counted, and what an update changes.
func writeActions(b *strings.Builder, w *model.World, p plan.Plan) {
	for i := 0; i < len(p.Actions); i++ {
		a := p.Actions[i]
		line := actionLine(a)
		n := 1
		for i+1 < len(p.Actions) && actionLine(p.Actions[i+1]) == line {
			n, i = n+1, i+1
		}
		if n > 1 {
			line += fmt.Sprintf(" x%d", n)
		}
		b.WriteString(line + "\n")
		if a.Reason() != "" {
			b.WriteString("  because " + a.Reason() + "\n")
		}
		switch a := a.(type) {
		case plan.Update:
			if old, ok := w.Get(resource.Of(a.Object), a.Object.GetNamespace(), a.Object.GetName()); ok {
				writeChanges(b, old, a.Object)
			}
		case plan.Create:
			writeCreated(b, a.Object)
		}
	}
}

func verbOf(a plan.Action) string {
	return strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", a), "plan."))
}

func actionLine(a plan.Action) string {
	ref := a.Target()
	name := ref.Name
	if c, ok := a.(plan.Create); ok && name == "" {
		name = c.Object.GetGenerateName() + "*"
	}
	return fmt.Sprintf("%s %s %s", verbOf(a), ref.Resource.Plural, name)
}

// writeCreated writes what matters of a new object: its owner, labels, annotations and the small values of its
// spec.
func writeCreated(b *strings.Builder, o object.Object) {
	if ref := claim.Controller(o); ref != nil {
		fmt.Fprintf(b, "  owner: %s/%s\n", ref.Kind, ref.Name)
	}
	flat := flatten(o)
	for _, path := range slices.Sorted(maps.Keys(flat)) {
		for _, prefix := range []string{"metadata.labels", "metadata.annotations", "spec.replicas", "spec.selector", "spec.minReadySeconds", "revision"} {
			if strings.HasPrefix(path, prefix) {
				fmt.Fprintf(b, "  %s: %s\n", path, flat[path])
			}
		}
	}
}

// writeChanges writes each value that differs between two states of an object.
func writeChanges(b *strings.Builder, old, next object.Object) {
	x, y := flatten(old), flatten(next)
	paths := map[string]bool{}
	for p := range x {
		paths[p] = true
	}
	for p := range y {
		paths[p] = true
	}
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		from, had := x[p]
		to, has := y[p]
		switch {
		case !had:
			fmt.Fprintf(b, "  %s: %s\n", p, to)
		case !has:
			fmt.Fprintf(b, "  %s: %s -> none\n", p, from)
		case from != to:
			fmt.Fprintf(b, "  %s: %s -> %s\n", p, from, to)
		}
	}
}

// flatten turns an object into paths and printed values; lists of named or typed items go by name or type.
func flatten(o object.Object) map[string]string {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(fmt.Sprintf("scenario: encode %T: %v", o, err))
	}
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		panic(fmt.Sprintf("scenario: decode %T: %v", o, err))
	}
	flat := map[string]string{}
	flattenInto(flat, "", v)
	for _, noise := range []string{"metadata.resourceVersion", "metadata.generation", "metadata.managedFields", "kind", "apiVersion"} {
		delete(flat, noise)
	}
	return flat
}

func flattenInto(flat map[string]string, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			p := k
			if at != "" {
				p = at + "." + k
			}
			if strings.ContainsAny(k, "./") {
				p = fmt.Sprintf("%s[%s]", at, k)
			}
			flattenInto(flat, p, e)
		}
	case []any:
		for i, e := range v {
			label := fmt.Sprint(i)
			if m, ok := e.(map[string]any); ok {
				for _, id := range []string{"type", "name", "uid"} {
					if s, ok := m[id].(string); ok {
						label = s
						break
					}
				}
			}
			flattenInto(flat, fmt.Sprintf("%s[%s]", at, label), e)
		}
	case string:
		if t, err := time.Parse(time.RFC3339, v); err == nil {
			v = clock(t)
		}
		flat[at] = v
	default:
		flat[at] = fmt.Sprint(v)
	}
}

func writeEvents(b *strings.Builder, events []plan.Event) {
	for _, e := range events {
		fmt.Fprintf(b, "event %s %s on %s %s: %s\n", e.Type, e.Reason, e.Regarding.Resource.Plural, e.Regarding.Name, e.Message)
	}
}

// clock prints an instant as the time since the scenario began.
func clock(t time.Time) string {
	d := t.Sub(Epoch)
	if d == 0 {
		return "0s"
	}
	return d.String()
}
