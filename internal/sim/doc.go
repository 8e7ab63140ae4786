// Package sim finds defects by chance: worlds drawn from a seed on the virtual cluster of package virtual, with users
// and accidents.
//
// It owns how a world is drawn, who chooses what happens next (a seed, so that a run is repeated exactly and a failure is
// cut down to a short trace), the accidents, and the promises: those of workload/invariant are held after every step and,
// when the world has been left in peace, at the end. It refuses to play the cluster, which is virtual's, and decisions
// of its own. Accidents are the API's refusals, lost watches, restarts and lost nodes; answers are not lost, because
// controllers call the API in process.
package sim
