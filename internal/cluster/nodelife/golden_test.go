package nodelife_test

import (
	"net/netip"
	"testing"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/scenario"
)

// TestScenarios are plans and explanations spelled out; -update rewrites what is expected.
func TestScenarios(t *testing.T) {
	scenario.Run(t, "testdata", nodelife.Controllers(nodelife.Config{
		PodRange: netip.MustParsePrefix("10.244.0.0/16"), SimulatedRange: netip.MustParsePrefix("100.64.0.0/10"),
	})...)
}
