package daemonset_test

import (
	"testing"

	"coracle/internal/workload/daemonset"
	"coracle/internal/workload/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, "testdata", daemonset.Controller()) }
