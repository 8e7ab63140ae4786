package why

import (
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"coracle/internal/object"
)

// Text writes a report for people: the object, the chain below it, and what is at its end.
func (r *Report) Text(out io.Writer) error {
	t := &text{now: r.At, hints: len(r.Causes) == 0}
	t.line("", r.Object.Subject.String(), string(r.Object.State)+t.since(r.Object.Since), r.Object.Summary)
	for _, next := range r.Object.Next {
		t.put("  next: " + next)
	}
	t.waits(r.Object, "")
	if len(r.Causes) > 0 {
		t.put("")
	}
	for i, c := range r.Causes[:min(few, len(r.Causes))] {
		title := "Root cause: "
		if i > 0 {
			title = "Besides:    "
		}
		if c.Reason == notFound {
			t.put(title + c.Subject.String() + " does not exist" + t.since(c.Since))
		} else {
			t.put(title + c.Subject.String() + ": " + c.Reason + t.since(c.Since) + ": " + sentence(c.Message, c.Reason, c.Subject))
		}
		if c.Hint != "" {
			t.put("  → what you can do: " + c.Hint)
		}
		t.log(c.Log)
	}
	if more := len(r.Causes) - few; more > 0 {
		t.put(fmt.Sprintf("And %d more (see -o json).", more))
	}
	_, err := io.WriteString(out, t.b.String())
	return err
}

// log prints the last lines of a container that crashed.
func (t *text) log(l *Log) {
	switch {
	case l == nil:
	case len(l.Lines) > 0:
		t.put("  last lines of container " + l.Container + ":")
		for _, line := range l.Lines {
			t.put("    " + line)
		}
	case l.Problem != "":
		t.put("  the log of container " + l.Container + " cannot be read: " + l.Problem)
	default:
		t.put("  container " + l.Container + " wrote nothing to its log")
	}
}

// String prints "Deployment shop/web".
func (s Subject) String() string {
	return s.Kind + " " + object.Key{Namespace: s.Namespace, Name: s.Name}.String()
}

type text struct {
	now time.Time
	b   strings.Builder
	// hints are told beside each wait where there is no root cause that has them.
	hints bool
}

func (t *text) put(line string) { t.b.WriteString(strings.TrimRight(line, " ") + "\n") }

func (t *text) line(indent, what string, parts ...string) {
	line := indent + what
	sep := "  "
	for _, p := range parts {
		if p != "" {
			line += sep + p
			sep = ": "
		}
	}
	t.put(line)
}

// waits prints what an entry waits for.
func (t *text) waits(e *Entry, indent string) {
	for i := range e.Waits {
		w := &e.Waits[i]
		b := w.Because
		if b == nil || w.note(e) {
			t.line(indent, "└ "+w.Reason+t.since(w.Since)+": "+w.sentence(e.Subject))
			if t.hints && w.Hint != "" {
				t.put(indent + "  → what you can do: " + w.Hint)
			}
		}
		if b == nil {
			continue
		}
		indent := indent
		if w.note(e) {
			indent += "  "
		}
		name := "└ " + w.shortName(e, b)
		switch own := b.only(); {
		case b.Missing:
			t.line(indent, name, "does not exist")
		case own == nil:
			t.line(indent, name, b.Summary)
			t.waits(b, indent+"  ")
		case own.Because == nil:
			t.line(indent, name, own.Reason+t.since(own.Since), own.sentence(b.Subject))
		default:
			t.line(indent, name, own.Reason+t.since(own.Since), own.sentence(b.Subject))
			t.waits(b, indent+"  ")
		}
	}
}

// note says that a wait says more than the object it points to: it counts several nodes, and points to
// the first.
func (w *Wait) note(of *Entry) bool {
	return of.Kind == "DaemonSet" && w.On != nil && w.On.Kind == "Node"
}

// only returns the one wait of an object that can stand for the object in its line; nil when there
// are several, or when the object is better summed up, as workloads are by the number of their pods.
func (e *Entry) only() *Wait {
	if len(e.Waits) != 1 || e.Waits[0].Because != nil && e.Kind != "Pod" && e.Kind != "PersistentVolumeClaim" {
		return nil
	}
	return &e.Waits[0]
}

// sentence is the message without what its line says already: the name of the object and the reason.
func (w *Wait) sentence(about Subject) string { return sentence(w.Message, w.Reason, about) }

func sentence(message, reason string, about Subject) string {
	return strings.Replace(bare(message, about), reason+": ", "", 1)
}

// shortName names an entry's object, with its namespace only where it differs from its parent's.
func (w *Wait) shortName(parent, e *Entry) string {
	if e.Namespace == parent.Namespace {
		return e.Kind + " " + e.Name
	}
	return e.Subject.String()
}

func (t *text) since(at *time.Time) string {
	if at == nil {
		return ""
	}
	return " for " + duration.HumanDuration(t.now.Sub(*at))
}

// called are what sentences call the objects that they begin with.
var called = map[string]string{"Pod": "pod ", "PersistentVolumeClaim": "claim "}

// bare takes the object that a sentence is about off its beginning: the line has it.
func bare(message string, about Subject) string {
	rest, ok := strings.CutPrefix(message, called[about.Kind]+about.Name)
	if !ok || called[about.Kind] == "" || !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, ":") {
		return message
	}
	return strings.TrimPrefix(strings.TrimLeft(rest, ": "), "is ")
}
