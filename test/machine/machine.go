// Package machine takes down how a Linux machine is, so that before and after can be compared: what a cluster changes it
// must put back.
//
// It owns what is looked at: links, addresses, routes, rules, neighbours that somebody set, nftables, settings below
// net, mounts, cgroups, the files of /run, System V objects. All of it is read from the kernel, by no other program. It
// refuses to say whose a difference is: who compares runs in namespaces of his own, or names what could be his.
package machine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Subject is one sort of what is looked at.
type Subject string

// The subjects.
const (
	Links     Subject = "link"
	Addresses Subject = "address"
	Routes    Subject = "route"
	Rules     Subject = "rule"
	Neighbors Subject = "neighbor"
	NFTables  Subject = "nftables"
	Settings  Subject = "setting"
	Mounts    Subject = "mount"
	Cgroups   Subject = "cgroup"
	Run       Subject = "run"
	IPC       Subject = "ipc"
)

// Snapshot is how the machine was at one instant, as the caller's network and mount namespace show it: by subject and
// name, a text that says how the thing is.
type Snapshot map[Subject]map[string]string

// Take looks at the machine.
func Take() (Snapshot, error) {
	s := Snapshot{}
	for _, look := range []struct {
		subject Subject
		at      func(add func(name, is string)) error
	}{
		{Links, links}, {Addresses, addresses}, {Routes, routes}, {Rules, rules}, {Neighbors, neighbors}, {NFTables, tables},
		{Settings, settings}, {Mounts, mounts}, {Cgroups, cgroups}, {Run, runFiles}, {IPC, ipc},
	} {
		things := map[string]string{}
		// Two of one name, such as mounts over each other, are told apart by their count.
		add := func(name, is string) {
			for n := 2; ; n++ {
				if _, taken := things[name]; !taken {
					break
				}
				name = fmt.Sprintf("%s (%d)", strings.TrimSuffix(name, fmt.Sprintf(" (%d)", n-1)), n)
			}
			things[name] = is
		}
		if err := look.at(add); err != nil {
			return nil, fmt.Errorf("look at %ss: %w", look.subject, err)
		}
		s[look.subject] = things
	}
	return s, nil
}

// Change is a difference between two snapshots. Before or After is empty where there was or is no such thing.
type Change struct {
	Subject             Subject
	Name, Before, After string
}

func (c Change) String() string {
	switch {
	case c.Before == "":
		return fmt.Sprintf("%s %s is new: %s", c.Subject, c.Name, c.After)
	case c.After == "":
		return fmt.Sprintf("%s %s is gone; it was %s", c.Subject, c.Name, c.Before)
	}
	return fmt.Sprintf("%s %s was %s and is %s", c.Subject, c.Name, c.Before, c.After)
}

// Diff lists what has changed, in order. Heed, when set, says of which things differences count.
func Diff(before, after Snapshot, heed func(Subject, string) bool) []Change {
	var out []Change
	for _, subject := range slices.Sorted(maps.Keys(after)) {
		was, is := before[subject], after[subject]
		names := map[string]bool{}
		for name := range was {
			names[name] = true
		}
		for name := range is {
			names[name] = true
		}
		for name := range names {
			if was[name] != is[name] && (heed == nil || heed(subject, name)) {
				out = append(out, Change{subject, name, was[name], is[name]})
			}
		}
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Name, b.Name))
	})
	return out
}
