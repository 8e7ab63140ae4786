// Package workload names all workload controllers, so that the server, the simulation and the rehearsal run the same.
//
// It owns the list and nothing else. It refuses decisions: each controller's are in a package of its own below this one.
package workload

import (
	"coracle/internal/plan"
	"coracle/internal/workload/daemonset"
	"coracle/internal/workload/deployment"
	"coracle/internal/workload/replicaset"
	"coracle/internal/workload/statefulset"
)

// Controllers returns the controllers of all workloads.
func Controllers() []plan.Controller {
	return []plan.Controller{
		replicaset.Controller(), replicaset.ReplicationController(), deployment.Controller(),
		statefulset.Controller(), daemonset.Controller(),
	}
}
