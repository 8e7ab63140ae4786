package policy

import (
	"slices"
	"strings"
)

// Diff returns what makes one table of another. Chains of one name are the same, and so are the elements of Ranges: their
// names say what is in them.
func Diff(from, to Table) Delta {
	d := Delta{Chains: map[string]Chain{}, Members: map[Member]string{}}
	for name, s := range to.Sets {
		was, there := from.Sets[name]
		if there && s.Shape == Ranges {
			continue
		}
		c := SetChange{Name: name, Shape: s.Shape, New: !there}
		for e := range s.Elements {
			if !was.Elements[e] {
				c.Add = append(c.Add, e)
			}
		}
		for e := range was.Elements {
			if !s.Elements[e] {
				c.Remove = append(c.Remove, e)
			}
		}
		if c.New || len(c.Add)+len(c.Remove) > 0 {
			slices.SortFunc(c.Add, order)
			slices.SortFunc(c.Remove, order)
			d.Sets = append(d.Sets, c)
		}
	}
	for name, c := range to.Chains {
		if _, there := from.Chains[name]; !there {
			d.Chains[name] = c
		}
	}
	for m, name := range to.Members {
		if from.Members[m] != name {
			d.Members[m] = name
		}
	}
	for m := range from.Members {
		if _, stays := to.Members[m]; !stays {
			d.Members[m] = ""
		}
	}
	d.GoneChains = lost(from.Chains, to.Chains)
	d.GoneSets = lost(from.Sets, to.Sets)
	slices.SortFunc(d.Sets, func(a, b SetChange) int { return strings.Compare(a.Name, b.Name) })
	return d
}

func lost[V any](from, to map[string]V) []string {
	var out []string
	for name := range from {
		if _, stays := to[name]; !stays {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
