package model

import (
	"maps"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// View is an object.Reader that shows a world as it was, kind by kind, as a view that is fed by
// watches does: each kind lags behind by itself, none ever goes back.
type View struct {
	of *World
	// pending are the states of each kind that have not been delivered yet, oldest first.
	pending map[resource.Resource][]*table
	shown   *World
	seen    map[resource.Resource]*table
}

// NewView returns a view that shows the world as it is.
func NewView(w *World) *View {
	v := &View{of: w, pending: map[resource.Resource][]*table{}, seen: map[resource.Resource]*table{},
		shown: &World{tables: map[resource.Resource]*table{}, indexes: w.indexes}}
	v.Note()
	for res := range v.pending {
		v.Deliver(res, len(v.pending[res]))
	}
	return v
}

// Note records the kinds that have changed since it was called last. Call it after each change.
func (v *View) Note() {
	for res, t := range v.of.tables {
		if last := v.seen[res]; last != nil && maps.Equal(last.objects, t.objects) {
			continue
		}
		state := &table{objects: maps.Clone(t.objects)}
		v.seen[res] = state
		v.pending[res] = append(v.pending[res], state)
	}
}

// Deliver lets the view of a kind catch up by n states, or as many as there are.
func (v *View) Deliver(res resource.Resource, n int) {
	states := v.pending[res]
	if n = min(n, len(states)); n > 0 {
		v.shown.tables[res] = states[n-1]
		v.pending[res] = states[n:]
	}
}

// Behind says by how many states the view of a kind lags.
func (v *View) Behind(res resource.Resource) int { return len(v.pending[res]) }

// Get implements object.Reader.
func (v *View) Get(res resource.Resource, namespace, name string) (object.Object, bool) {
	return v.shown.Get(res, namespace, name)
}

// List implements object.Reader.
func (v *View) List(res resource.Resource, namespace string) []object.Object {
	return v.shown.List(res, namespace)
}

// Indexed implements object.Reader.
func (v *View) Indexed(res resource.Resource, index, value string) []object.Object {
	return v.shown.Indexed(res, index, value)
}
