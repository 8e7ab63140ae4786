package view

import (
	"fmt"
	"slices"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// summary keeps the tallies of an index's values. One goes with the last object that it counts.
type summary struct {
	object.Summary
	tallies map[string]*kept
}

// kept is a tally with the number of objects in it.
type kept struct {
	object.Tally
	members int
}

// AddSummaries declares summaries, of indexes that are declared; objects already seen are counted at once. A second
// declaration of a name changes nothing.
func (v *View) AddSummaries(summaries ...object.Summary) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range summaries {
		ix := v.table(s.Resource).index(s.Index)
		if ix == nil {
			panic(fmt.Sprintf("view: summary %q of %s is of the index %q, which nobody declared", s.Name, s.Resource, s.Index))
		}
		if ix.summary(s.Name) == nil {
			ix.summarize(s)
		}
	}
}

func (ix *index) summarize(s object.Summary) {
	of := &summary{Summary: s, tallies: map[string]*kept{}}
	for _, o := range ix.table.objects {
		of.refile(nil, o, nil, unique(ix.values(nil, o)))
	}
	ix.summaries = append(ix.summaries, of)
}

func (ix *index) summary(name string) *summary {
	for _, s := range ix.summaries {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// refile tells the tallies of the values that an object was and is filed under.
func (s *summary) refile(before, after object.Object, was, is []string) {
	if s.Of != nil {
		if before != nil && !s.Of(before) {
			before, was = nil, nil
		}
		if after != nil && !s.Of(after) {
			after, is = nil, nil
		}
	}
	for _, v := range was {
		if t := s.tallies[v]; slices.Contains(is, v) {
			t.Change(before, after)
		} else if t.members--; t.members == 0 {
			delete(s.tallies, v)
		} else {
			t.Change(before, nil)
		}
	}
	for _, v := range is {
		if slices.Contains(was, v) {
			continue
		}
		t := s.tallies[v]
		if t == nil {
			t = &kept{Tally: s.Empty()}
			s.tallies[v] = t
		}
		t.members++
		t.Change(nil, after)
	}
}

// Tally is what object.Tallied asks for. It is nil where nothing is counted; kept is false where nobody declared the
// summary.
func (s still) Tally(res resource.Resource, name, value string) (t object.Tally, found bool) {
	table := s.v.tables[res]
	if table == nil {
		return nil, false
	}
	for _, ix := range table.indexes {
		if sum := ix.summary(name); sum != nil {
			if of := sum.tallies[value]; of != nil {
				return of.Tally, true
			}
			return nil, true
		}
	}
	return nil, false
}
