package deployment_test

import (
	"testing"

	"coracle/internal/workload/deployment"
	"coracle/internal/workload/replicaset"
	"coracle/internal/workload/scenario"
)

func TestScenarios(t *testing.T) {
	scenario.Run(t, "testdata", deployment.Controller(), replicaset.Controller())
}
