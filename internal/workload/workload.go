// Package workload names all kinds of workload with their controllers, so that the server, the simulation and the
// rehearsal run the same, and so that nobody else need tell the kinds apart.
//
// It owns the rows (Kind) and nothing else. It refuses decisions: each controller's are in a package of its own below
// this one.
package workload

import "coracle/internal/plan"

// Controllers returns the controllers of all workloads.
func Controllers() []plan.Controller {
	all := make([]plan.Controller, len(kinds))
	for i := range kinds {
		all[i] = kinds[i].Controller
	}
	return all
}
