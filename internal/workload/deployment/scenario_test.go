package deployment_test

import (
	"testing"

	"coracle/internal/scenario"
	"coracle/internal/workload/deployment"
	"coracle/internal/workload/replicaset"
)

func TestScenarios(t *testing.T) {
	scenario.Run(t, "testdata", deployment.Controller(), replicaset.Controller())
}
