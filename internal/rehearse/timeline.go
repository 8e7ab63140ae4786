package rehearse

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"coracle/internal/object"
	"coracle/internal/virtual"
)

// line is one thing that happens.
type line struct {
	at     time.Duration
	kind   string
	object string
	// of names the owner of pods that may be counted together; fixed says that each has a name worth telling.
	of    string
	fixed bool
	what  string
	node  string
	// from and to are numbers of pods, where they were scaled.
	from, scaledTo int32
	n              int
	matters        bool
}

// Entry is a line of the timeline: one or several things alike.
type Entry struct {
	// At and Until are seconds since the start; Until is that of the last of several.
	At    float64 `json:"at"`
	Until float64 `json:"until,omitempty"`
	Kind  string  `json:"kind"`
	// Object is KIND/NAME, with its namespace in front where that is not the user's; for pods of one owner it is the owner's name.
	Object string `json:"object"`
	// Count is how many objects alike are meant.
	Count int    `json:"count"`
	What  string `json:"what"`
	// Nodes counts pods by node, where it matters.
	Nodes map[string]int `json:"nodes,omitempty"`

	fixed, pods bool
}

// widest is how many lines a person reads.
const widest = 36

// steps are the widths of time within which things alike are told together, until few enough lines are left.
var steps = []time.Duration{0, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 20 * time.Minute, 24 * time.Hour}

// timeline tells together what is alike: what happens at one instant and, where that is too long to read, what happens
// within a wider and wider while.
func timeline(lines []line) []Entry {
	var out []Entry
	for _, step := range steps {
		if out = merge(lines, step); len(out) <= widest {
			break
		}
	}
	return out
}

func merge(lines []line, step time.Duration) []Entry {
	type key struct {
		window       time.Duration
		kind, object string
		what         string
	}
	at := map[key]int{}
	var out []Entry
	var names []map[string]bool
	var scales []*line
	for i := range lines {
		l := &lines[i]
		object, what := l.object, l.what
		if l.of != "" {
			object = l.of
		}
		k := key{l.at, l.kind, object, what}
		if step > 0 {
			k.window = l.at / step
		}
		n, ok := at[k]
		if !ok {
			n = len(out)
			at[k] = n
			out = append(out, Entry{At: seconds(l.at), Kind: l.kind, Object: object, What: what, fixed: l.fixed, pods: l.of != ""})
			names = append(names, map[string]bool{})
			scales = append(scales, l)
		}
		e := &out[n]
		e.Count += l.n
		if until := seconds(l.at); until > e.At {
			e.Until = until
		}
		names[n][l.object] = true
		if l.what == "scaled" {
			e.What = fmt.Sprintf("scaled %d → %d", scales[n].from, l.scaledTo)
		}
		if l.node != "" {
			if e.Nodes == nil {
				e.Nodes = map[string]int{}
			}
			e.Nodes[l.node]++
		}
	}
	for i := range out {
		if e := &out[i]; e.fixed && len(names[i]) == 1 {
			for name := range names[i] {
				e.Object, e.pods, e.Count = name, false, 1
			}
		} else if !e.pods {
			e.Count = 1
		}
	}
	slices.SortStableFunc(out, func(a, b Entry) int {
		switch {
		case a.At < b.At:
			return -1
		case a.At > b.At:
			return 1
		}
		return 0
	})
	return out
}

// subject prints "pod ×2 of web-6d4cf", or what the entry's one object is called.
func (e Entry) subject() string {
	switch {
	case e.pods && e.Count == 1:
		return "pod of " + e.Object
	case e.pods:
		return fmt.Sprintf("pod ×%d of %s", e.Count, e.Object)
	}
	return e.Object
}

// few is how many nodes are named.
const fewNodes = 3

func (e Entry) where() string {
	if len(e.Nodes) == 0 {
		return ""
	}
	prep := "on "
	if strings.HasPrefix(e.What, "evicted") || strings.HasPrefix(e.What, "preempted") || strings.HasPrefix(e.What, "deleted") {
		prep = "from "
	}
	if len(e.Nodes) > fewNodes {
		return fmt.Sprintf(" %s%d nodes", prep, len(e.Nodes))
	}
	var parts []string
	for name, n := range e.Nodes {
		if e.Count > 1 && len(e.Nodes) > 1 {
			name += fmt.Sprintf(" ×%d", n)
		}
		parts = append(parts, name)
	}
	slices.Sort(parts)
	return " " + prep + strings.Join(parts, ", ")
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

func during(s float64) time.Duration { return time.Duration(s*1000) * time.Millisecond }

// Writing is one write, as --verbose shows it.
type Writing struct {
	At     float64 `json:"at"`
	By     string  `json:"by"`
	Verb   string  `json:"verb"`
	Object string  `json:"object"`
	// Because is the controller's reason, where it gives one.
	Because string `json:"because,omitempty"`
}

func writing(w virtual.Write, at time.Duration) Writing {
	verb := "update"
	switch {
	case w.Before == nil:
		verb = "create"
	case w.Type == "DELETED":
		verb = "remove"
	case w.Before.GetDeletionTimestamp() == nil && w.Object.GetDeletionTimestamp() != nil:
		verb = "delete"
	}
	name := object.KeyOf(w.Object).String()
	return Writing{seconds(at), w.By, verb, strings.ToLower(w.Resource.Kind) + " " + name, w.Because}
}
