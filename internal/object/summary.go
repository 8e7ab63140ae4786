package object

import "coracle/internal/resource"

// Summary is what decisions need of all the objects that an index files under one value, without looking at each: a
// Tally for each value, which whoever keeps the snapshot carries on with every change.
type Summary struct {
	Resource resource.Resource
	// Index is the index whose values have a Tally each.
	Index string
	Name  string
	// Of says which objects count; nil means that each does. It depends on the object alone.
	Of func(Object) bool
	// Empty returns the tally of no objects.
	Empty func() Tally
}

// Tally is the summary of the objects under one value. It depends on which objects there are, never on how they came
// to be so: the tally of a long history is that of its last state.
type Tally interface {
	// Change takes one object's change into account: before is nil when it came, after when it went.
	Change(before, after Object)
}

// Tallied returns the tally of the objects that a summary's index files under value. It belongs to the Reader, holds
// for as long as the snapshot stands still, and must not be changed. A Reader that keeps none has its objects counted.
func Tallied(r Reader, s *Summary, value string) Tally {
	if counted, ok := r.(interface {
		Tally(res resource.Resource, summary, value string) (t Tally, kept bool)
	}); ok {
		if t, kept := counted.Tally(s.Resource, s.Name, value); kept {
			if t == nil {
				return s.Empty()
			}
			return t
		}
	}
	t := s.Empty()
	for _, o := range r.Indexed(s.Resource, s.Index, value) {
		if s.Of == nil || s.Of(o) {
			t.Change(nil, o)
		}
	}
	return t
}
