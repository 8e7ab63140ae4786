// Package durability kills the server, again and again, under writers and watchers, and holds what it says
// afterwards against what it had acknowledged.
//
// It owns what only kills and a damaged disk show of a whole server: that every acknowledged write is there and whole, that no revision is given twice or
// goes back, and that watchers, going on from the last revision they saw, miss and double nothing. The test's own
// binary is the server. `go test` kills 50 times; `make durability KILLS=10000` for long, and says how it goes.
package durability

import (
	"flag"
	"os"
	"testing"

	"coracle/internal/app"
)

var (
	kills    = flag.Int("durability.kills", 50, "how often to kill a server, in all")
	clusters = flag.Int("durability.clusters", 1, "how many clusters share the kills, side by side")
	writers  = flag.Int("durability.writers", 8, "how many write at once to a cluster")
	seed     = flag.Uint64("durability.seed", 0, "seed of what is written and when is killed; 0 takes another each time")
)

// commands are those of coracle that this binary stands in for.
var commands = map[string]bool{"up": true, "server": true, "store": true}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && commands[os.Args[1]] {
		os.Exit(app.Main(os.Args))
	}
	os.Exit(m.Run())
}
