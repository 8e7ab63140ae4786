package sim

import (
	"flag"
	"testing"
)

var (
	depth = flag.Int("sim.depth", 9, "how deep small worlds are explored")
	most  = flag.Int("sim.most", 0, "how many transitions of each small world are explored at most; 0 is no limit")
)

// TestSmall goes through all that can happen in small worlds up to a depth.
func TestSmall(t *testing.T) {
	for _, s := range scopes() {
		t.Run(s.name, func(t *testing.T) {
			x := explore(s, nil, *depth, *most)
			t.Log(x)
			if x.broken != nil {
				t.Fail()
			}
		})
	}
}
