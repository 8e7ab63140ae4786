package statefulset_test

import (
	"testing"

	"coracle/internal/scenario"
	"coracle/internal/workload/statefulset"
)

func TestScenarios(t *testing.T) { scenario.Run(t, "testdata", statefulset.Controller()) }
