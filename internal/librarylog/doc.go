// Package librarylog takes what the Kubernetes libraries log (through klog,
// which is global) into a process's own log.
//
// It owns how much that may be: what a line may hold, for libraries log what
// clients sent, and how often one place in the code may speak, for clients
// decide how often it has a reason to. It refuses to bound what Coracle says
// itself, and to drop anything in silence: the last line before a gap, and the
// first one after it, tell of it.
package librarylog
