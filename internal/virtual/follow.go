package virtual

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// history is what happened to a kind, and who reads it.
type history struct {
	entries []fake.Entry
	readers []*Watch
}

func (c *Cluster) history(res resource.Resource) *history {
	h := c.logs[res]
	if h == nil {
		h = &history{}
		c.logs[res] = h
	}
	return h
}

// tell shows everybody what they have not seen.
func (h *history) tell() {
	for _, w := range h.readers {
		for w.Behind() {
			w.Deliver()
		}
	}
}

// Follower is a process that watches kinds, each of which lags behind by itself.
type Follower struct {
	Name    string
	Watches []*Watch
	view    *view.View
	heed    func(view.Change)
}

// Watch is a follower's watch of one kind.
type Watch struct {
	Resource resource.Resource
	of       *Follower
	cluster  *Cluster
	history  *history
	// at is how far it is in the history.
	at int
}

// follow begins to watch kinds, from lists of a revision.
func (c *Cluster) follow(name string, v *view.View, kinds []resource.Resource, at uint64, heed func(view.Change)) *Follower {
	f := &Follower{Name: name, view: v, heed: heed}
	for _, res := range kinds {
		w := &Watch{Resource: res, of: f, cluster: c, history: c.history(res)}
		w.history.readers = append(w.history.readers, w)
		f.Watches = append(f.Watches, w)
		w.list(w.history.place(at))
	}
	return f
}

// View is what the follower knows of the cluster.
func (f *Follower) View() *view.View { return f.view }

// Watch returns the follower's watch of a kind; nil when it has none.
func (f *Follower) Watch(res resource.Resource) *Watch {
	if at := slices.IndexFunc(f.Watches, func(w *Watch) bool { return w.Resource == res }); at >= 0 {
		return f.Watches[at]
	}
	return nil
}

// Behind says whether there is something that the watch has yet to tell.
func (w *Watch) Behind() bool { return w.at < len(w.history.entries) }

// Deliver tells the next change.
func (w *Watch) Deliver() {
	w.at++
	w.tell(w.history.entries[w.at-1])
}

// Repeat tells the last change once more.
func (w *Watch) Repeat() {
	if w.at > 0 {
		w.tell(w.history.entries[w.at-1])
	}
}

func (w *Watch) tell(e fake.Entry) {
	w.of.heed(w.of.view.Apply(view.Event{Type: e.Type, Resource: e.Resource, Object: e.Object, Revision: e.Revision}))
}

// Relist is what follows a lost watch: all that is there, and of what was between nothing.
func (w *Watch) Relist() { w.list(len(w.history.entries)) }

// Lag is how many changes the watch has yet to tell.
func (w *Watch) Lag() int { return len(w.history.entries) - w.at }

// Miss has a lost watch miss the next changes, at most as many as there are: it lists what they left, and then goes on.
func (w *Watch) Miss(changes int) { w.list(w.at + min(changes, w.Lag())) }

// list shows all that was there after so many changes of the kind's history.
func (w *Watch) list(at int) {
	w.at = at
	objects, revision := w.cluster.truth.List(w.Resource, ""), w.cluster.store.Revision()
	if at < len(w.history.entries) {
		objects, revision = w.history.before(at, objects), w.history.entries[at].Revision-1
	}
	for _, ch := range w.of.view.Replace(w.Resource, objects, revision) {
		if unheard := w.cluster.cfg.Unheard; unheard == nil || !unheard(ch.Before, ch.After) {
			w.of.heed(ch)
		}
	}
}

// before is what was there before the change at a place, by what is there now: each later change is undone.
func (h *history) before(at int, now []object.Object) []object.Object {
	was := make(map[object.Key]object.Object, len(now))
	for _, o := range now {
		was[object.KeyOf(o)] = o
	}
	for _, e := range slices.Backward(h.entries[at:]) {
		if key := object.KeyOf(e.Object); e.Before == nil {
			delete(was, key)
		} else {
			was[key] = e.Before
		}
	}
	keys := slices.SortedFunc(maps.Keys(was), func(a, b object.Key) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	out := make([]object.Object, len(keys))
	for i, key := range keys {
		out[i] = was[key]
	}
	return out
}

// place is how many of a kind's changes had happened at a revision.
func (h *history) place(revision uint64) int {
	at, _ := slices.BinarySearchFunc(h.entries, revision+1, func(e fake.Entry, r uint64) int { return cmp.Compare(e.Revision, r) })
	return at
}

// Followers are the processes that watch: the controllers and the scheduler.
func (c *Cluster) Followers() []*Follower { return []*Follower{c.control, c.sched} }

// Control is what the controllers know of the cluster.
func (c *Cluster) Control() *Follower { return c.control }
