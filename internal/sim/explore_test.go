package sim

import (
	"flag"
	"slices"
	"testing"
)

var (
	wide       = flag.Bool("sim.wide", false, "explore small worlds with accidents to their ends, too")
	depth      = flag.Int("sim.depth", 4, "to which depth small worlds are explored in all orders of events")
	departures = flag.Int("sim.departures", 1, "with how many departures from the first order small worlds are explored to their ends")
)

// TestSmall goes through all that can happen in small worlds: in every order of the first events, and to the end with few
// departures.
func TestSmall(t *testing.T) {
	states, transitions, ends := 0, 0, 0
	for _, s := range scopes() {
		t.Run(s.name, func(t *testing.T) {
			bounds := []bound{within(*depth)}
			if s.accidents == 0 || *wide {
				bounds = append(bounds, departing(*departures))
			}
			for _, b := range bounds {
				x := explore(s, nil, b)
				t.Log(x)
				if x.broken != nil {
					t.Fail()
				}
				states, transitions, ends = states+x.states, transitions+x.transitions, ends+x.ends
			}
		})
	}
	t.Logf("%d states, %d transitions, %d ends", states, transitions, ends)
}

// shown are defects that small worlds show with one departure at most, by the kind of workload.
var shown = map[string][]string{
	"ReplicaSet": {"a ReplicaSet never deletes the last pod", "a ReplicaSet deletes ready pods first", "a ReplicaSet counts one replica too many"},
	"Deployment": {"a Deployment surges by one too many", "a Deployment takes one too many", "a Deployment never finishes growing",
		"a Deployment never lets the last old pod go"},
	"StatefulSet": {"a StatefulSet takes the lowest ordinal first", "a StatefulSet never creates the last pod", "a StatefulSet scales down two at a time"},
	"DaemonSet":   {"a DaemonSet updates all nodes at once", "a DaemonSet never creates the last pod", "a DaemonSet counts one node too many"},
}

// TestSmallShows: small worlds show defects, too.
func TestSmallShows(t *testing.T) {
	all := append(append([]mutation(nil), mutations...), moreMutations...)
	for _, s := range scopes() {
		for _, name := range shown[s.name] {
			at := slices.IndexFunc(all, func(m mutation) bool { return m.Name == name })
			if at < 0 {
				t.Fatalf("no such defect: %s", name)
			}
			if x := explore(s, &all[at], departing(1)); x.broken == nil {
				t.Errorf("%s: not found: %s", name, x)
			}
		}
	}
}
