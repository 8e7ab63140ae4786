package podsync

import (
	"cmp"
	"slices"
	"strings"
	"testing"
)

// stateOf names the state, as Decide draws them, of a pod about which d was decided.
func stateOf(m *model, d Decision) string {
	running := len(m.running()) > 0
	starting := slices.ContainsFunc(m.under(), func(key string) bool { return strings.HasPrefix(key, "start/") })
	killing := slices.ContainsFunc(m.under(), func(key string) bool { return strings.HasPrefix(key, "kill/") })
	ready := slices.ContainsFunc(m.in.World.Sandboxes, func(b Sandbox) bool { return b.Ready })
	switch ending := Ending(m.in); {
	case d.Finished:
		return "finished"
	case ending && running && !killing:
		return "draining"
	case ending && (running || starting):
		return "killing"
	case ending && ready:
		return "closing"
	case ending && !m.in.Released:
		return "releasing"
	case ending && m.in.Gone:
		return "clearing"
	case ending && m.in.Pod.DeletionTimestamp != nil:
		return "deleting"
	case ending:
		return "ended"
	case m.in.Blocked:
		return "waiting"
	case !m.in.Mounted:
		return "mounting"
	case !ready:
		return "opening"
	}
	return "running"
}

// happen is what may happen to a pod.
var happen = map[string]func(m *model){
	"done": func(m *model) {
		for _, key := range m.under() {
			m.complete(key)
		}
	},
	"unblocked": func(m *model) { m.in.Blocked = false },
	"deleted":   func(m *model) { m.delete(30) },
	"deleted while nodes lead to it": func(m *model) {
		m.in.Draining = true
		m.delete(30)
	},
	"drained":        func(m *model) { m.in.Draining = false },
	"forced":         func(m *model) { m.in.Gone = true },
	"evicted":        func(m *model) { m.in.Stop = &Stop{Reason: "Evicted"} },
	"container dies": func(m *model) { m.exit(cmp.Or(m.running()...), 1) },
	"sandbox dies": func(m *model) {
		m.in.World.Sandboxes[0].Ready = false
		for _, id := range m.running() {
			m.exit(id, 137)
		}
	},
}

// TestStates: what happens to a pod takes it from each state to the one that the drawing at Decide says, with the steps that
// belong to it. Each row begins with a new pod that waits for its predecessor.
func TestStates(t *testing.T) {
	const toRunning = "unblocked, done, done, done"
	rows := []struct{ from, events, to, steps string }{
		// On the way up.
		{"waiting", "unblocked", "mounting", "volumes"},
		{"mounting", "unblocked, done", "opening", "sandbox"},
		{"opening", "unblocked, done, done", "running", "start/main"},
		{"running", toRunning, "running", ""},
		{"running", toRunning + ", container dies", "running", "start/main"},
		{"running", toRunning + ", container dies, done, container dies", "running", ""}, // its backoff has not passed
		{"running", toRunning + ", sandbox dies", "opening", "sandbox"},
		// An end may come in each of these.
		{"waiting", "deleted", "releasing", "release"},
		{"waiting", "forced", "releasing", "release"},
		{"mounting", "unblocked, deleted", "releasing", "cancel/volumes"},
		{"mounting", "unblocked, evicted", "releasing", "cancel/volumes"},
		{"opening", "unblocked, done, deleted", "releasing", "cancel/sandbox"},
		{"running", "unblocked, done, done, deleted", "closing", "cancel/start/main"},
		{"running", toRunning + ", deleted", "killing", "kill/main#0"},
		{"running", toRunning + ", evicted", "killing", "kill/main#0"},
		{"running", toRunning + ", forced", "killing", "kill/main#0"},
		{"running", toRunning + ", deleted while nodes lead to it", "draining", ""},
		{"draining", toRunning + ", deleted while nodes lead to it, drained", "killing", "kill/main#0"},
		{"draining", toRunning + ", deleted while nodes lead to it, forced", "killing", "kill/main#0"},
		// On the way down, one thing after the other.
		{"killing", toRunning + ", deleted, done", "closing", "stop/box0"},
		{"closing", toRunning + ", deleted, done, done", "releasing", "release"},
		{"releasing", toRunning + ", deleted, done, done, done", "deleting", "delete"},
		{"deleting", toRunning + ", deleted, done, done, done, done", "clearing", "remove/box0"},
		{"clearing", toRunning + ", deleted, done, done, done, done, done", "finished", ""},
		{"releasing", toRunning + ", evicted, done, done, done", "ended", ""},
		{"ended", toRunning + ", evicted, done, done, done, deleted", "deleting", "delete"},
		{"releasing", toRunning + ", forced, done, done, done", "clearing", "remove/box0"},
		{"deleting", toRunning + ", deleted, done, done, done, forced", "clearing", "remove/box0"},
	}
	reached := map[string]bool{}
	for _, row := range rows {
		m := newModel(parsePod([]string{"main:main"}))
		m.in.Blocked = true
		state, from := stateOf(m, m.decide()), ""
		var steps []string
		for _, event := range strings.Split(row.events, ", ") {
			from = state
			happen[event](m)
			d := m.decide()
			steps = nil
			for _, s := range d.Steps {
				steps = append(steps, s.Key())
			}
			state = stateOf(m, d)
		}
		reached[state] = true
		if got := strings.Join(steps, " "); from != row.from || state != row.to || got != row.steps {
			t.Errorf("%s: from %s to %s by %q, want from %s to %s by %q", row.events, from, state, got, row.from, row.to, row.steps)
		}
	}
	for _, state := range []string{
		"mounting", "opening", "running", "draining", "killing", "closing", "releasing", "ended", "deleting", "clearing", "finished",
	} {
		if !reached[state] {
			t.Errorf("no row leads to %s", state)
		}
	}
}
