// Package sim is a whole cluster in one goroutine and in virtual time: the production planners, loop,
// scheduler and views over the fake cluster of client/fake, on nodes that only pretend.
//
// It owns the order in which things happen: each step takes one of the events that could happen now,
// chosen by a seed, so that a run is repeated exactly by its seed and a failure is cut down to a short trace. It holds
// the promises of workload/invariant after every step and, when the world has been left in peace, at the end.
// It refuses decisions of its own: what a controller does is what production does. Faults are the API's
// refusals, lost watches, restarts and lost nodes; answers are not lost, because controllers call the API in process.
package sim
