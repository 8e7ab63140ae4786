package sim

import "math/rand/v2"

// feature is something that a world may contain: objects, settings, and what its users then do.
type feature string

// The features. Each world has a few of them, so that rare combinations occur.
const (
	twins       feature = "twins"       // several workloads of a kind
	budgets     feature = "budgets"     // disruption budgets, and drains
	scarce      feature = "scarce"      // little room on nodes, and priorities
	canaries    feature = "canaries"    // coracle.io/steps
	rollbacks   feature = "rollbacks"   // coracle.io/auto-rollback
	onDelete    feature = "on-delete"   // update strategy OnDelete
	reserved    feature = "reserved"    // coracle.io/reserve-ordinals, spec.ordinals.start
	growth      feature = "growth"      // claims that grow
	held        feature = "held"        // coracle.io/partition, paused, canary-selector of DaemonSets
	apart       feature = "apart"       // pod anti-affinity
	namespaces  feature = "namespaces"  // namespaces deleted and made again
	deadlines   feature = "deadlines"   // short progress deadlines
	replacement feature = "replacement" // coracle.io/pod-replacement-policy
	policies    feature = "policies"    // retention policies, history limits, minReadySeconds that change
	shares      feature = "shares"      // maxUnavailable and maxSurge as percentages, for all kinds
	quotas      feature = "quotas"      // a quota of pods, which changes
	slow        feature = "slow"        // pods that are ready for long before they are available, in sets without order and in daemons
	past        feature = "past"        // restarts that read the past
	gaps        feature = "gaps"        // watches that miss states, and crashes between two actions of one plan
)

var features = []feature{twins, budgets, scarce, canaries, rollbacks, onDelete, reserved, growth, held, apart, namespaces, deadlines,
	replacement, policies, shares, slow, quotas}

// drawn returns the features of a seed's world: none, a few, or about half of all.
func drawn(seed uint64) map[feature]bool {
	r := rand.New(rand.NewPCG(seed, 2))
	of, out := pick(r, 0, 1, 2, 3, 3, 5), map[feature]bool{}
	for _, f := range features {
		if r.IntN(10) < of {
			out[f] = true
		}
	}
	for r, f := rand.New(rand.NewPCG(seed, 4)), accidental; len(f) > 0; f = f[1:] {
		if r.IntN(4) == 0 {
			out[f[0]] = true
		}
	}
	return out
}

// accidental are features of the accidents alone, drawn by themselves.
var accidental = []feature{past, gaps}

// moreFaults are accidents of worlds that have a feature.
var moreFaults = map[feature][]string{past: {"past", "past", "past"}, gaps: {"miss", "miss", "midway", "midway"}}
