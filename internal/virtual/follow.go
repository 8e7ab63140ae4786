package virtual

import (
	"slices"

	"coracle/internal/client/fake"
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

func (c *Cluster) follow(name string, v *view.View, kinds []resource.Resource, heed func(view.Change)) *Follower {
	f := &Follower{Name: name, view: v, heed: heed}
	for _, res := range kinds {
		w := &Watch{Resource: res, of: f, cluster: c, history: c.history(res)}
		w.history.readers = append(w.history.readers, w)
		f.Watches = append(f.Watches, w)
		w.Relist()
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
func (w *Watch) Relist() {
	w.at = len(w.history.entries)
	for _, ch := range w.of.view.Replace(w.Resource, w.cluster.truth.List(w.Resource, ""), w.cluster.store.Revision()) {
		w.of.heed(ch)
	}
}

// Followers are the processes that watch: the controllers and the scheduler.
func (c *Cluster) Followers() []*Follower { return []*Follower{c.control, c.sched} }

// Control is what the controllers know of the cluster.
func (c *Cluster) Control() *Follower { return c.control }
