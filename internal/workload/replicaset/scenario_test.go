package replicaset_test

import (
	"testing"

	"coracle/internal/scenario"
	"coracle/internal/workload/replicaset"
)

func TestScenarios(t *testing.T) {
	scenario.Run(t, "testdata", replicaset.Controller(), replicaset.ReplicationController())
}
