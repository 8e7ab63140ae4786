package fairness

import (
	"testing"

	"pgregory.net/rapid"
)

// TestIntakeHolds: whatever comes and goes, levels and flows keep to their limits, and nothing is left at the end.
func TestIntakeHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := Defaults(600)
		if err != nil {
			t.Fatal(err)
		}
		in := NewIntake(p, 256<<20)
		var claims []*Claim
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			if len(claims) == 0 || rapid.IntRange(0, 2).Draw(t, "kind") > 0 {
				class := Class{Level: rapid.IntRange(0, p.Levels()-1).Draw(t, "level")}
				if c, ok := in.Open(class, rapid.Uint64Range(0, 20).Draw(t, "flow")); ok {
					for in.Grow(&c, rapid.IntRange(1, MaxBody).Draw(t, "bytes")) && rapid.Bool().Draw(t, "more") {
						continue
					}
					claims = append(claims, &c)
				}
			} else {
				i := rapid.IntRange(0, len(claims)-1).Draw(t, "which")
				if rapid.Bool().Draw(t, "whole") {
					in.Arrived(claims[i])
				} else {
					in.Close(claims[i])
					claims = append(claims[:i], claims[i+1:]...)
				}
			}
			for i, l := range in.levels {
				if l.exempt {
					continue
				}
				bodies, bytes := 0, 0
				for _, f := range l.flows {
					if bodies, bytes = bodies+f.bodies, bytes+f.bytes; f.bodies > l.flowBodies || f.bytes > l.flowBytes {
						t.Fatalf("level %d: a flow has %d bodies and %d bytes", i, f.bodies, f.bytes)
					}
				}
				if bodies != l.bodies || bytes != l.bytes || l.bodies > l.maxBodies || l.bytes > l.maxBytes {
					t.Fatalf("level %d counts %d bodies and %d bytes, there are %d and %d", i, l.bodies, l.bytes, bodies, bytes)
				}
			}
		}
		for _, c := range claims {
			in.Close(c)
		}
		for i, l := range in.levels {
			if l.bodies != 0 || l.bytes != 0 || len(l.flows) != 0 {
				t.Fatalf("level %d keeps %d bodies, %d bytes, %d flows", i, l.bodies, l.bytes, len(l.flows))
			}
		}
	})
}

// TestSlowBodiesOfOneFlow: whoever opens bodies without end gets an eighth of his level's, others get theirs.
func TestSlowBodiesOfOneFlow(t *testing.T) {
	p := defaults(t)
	in := NewIntake(p, 256<<20)
	low := Class{Level: levelNamed(t, p, "workload-low")}
	got := 0
	for range 10_000 {
		if _, ok := in.Open(low, 1); ok {
			got++
		}
	}
	if l := in.levels[low.Level]; got != l.flowBodies || got*8 > l.maxBodies {
		t.Errorf("one flow has %d bodies of %d", got, l.maxBodies)
	}
	if _, ok := in.Open(low, 2); !ok {
		t.Error("another flow of the level is refused")
	}
	for flow := range uint64(10_000) { // thousands of flows fill the level, and no other
		in.Open(low, 10+flow)
	}
	if _, ok := in.Open(low, 3); ok {
		t.Error("the level has no end")
	}
	for i, l := range p.levels {
		if i == low.Level {
			continue
		}
		c, ok := in.Open(Class{Level: i}, 1)
		if !ok || !in.Grow(&c, MaxBody) {
			t.Errorf("%s: a body is refused", l.name)
		}
	}
}
