package replicaset_test

import (
	"testing"

	"coracle/internal/workload/replicaset"
	"coracle/internal/workload/scenario"
)

func TestScenarios(t *testing.T) {
	scenario.Run(t, "testdata", replicaset.Controller(), replicaset.ReplicationController())
}
