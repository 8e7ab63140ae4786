// Package fairness decides which request is served next when there are more than the server serves at once: priority
// and fairness as KEP-1040 means it, by FlowSchemas and PriorityLevelConfigurations (flowcontrol.apiserver.k8s.io/v1).
//
// It owns the arithmetic: which level and flow a request belongs to (Policy), who gets a seat and who waits
// (Dispatcher), and how much may lie in memory before a seat is taken (Intake). It decides and does nothing else: it
// has no clock, no goroutine and no lock, and it never sees a request's bytes. Package gate carries it out.
package fairness
