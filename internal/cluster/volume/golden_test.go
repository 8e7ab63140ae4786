package volume_test

import (
	"testing"

	"coracle/internal/cluster/volume"
	"coracle/internal/scenario"
)

// TestScenarios are plans and explanations spelled out; -update rewrites what is expected.
func TestScenarios(t *testing.T) {
	scenario.Run(t, "testdata", volume.Controllers(volume.Config{SharedRoot: "/data/shared"})...)
}
