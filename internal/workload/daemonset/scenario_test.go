package daemonset_test

import (
	"testing"

	"coracle/internal/scenario"
	"coracle/internal/workload/daemonset"
)

func TestScenarios(t *testing.T) { scenario.Run(t, "testdata", daemonset.Controller()) }
