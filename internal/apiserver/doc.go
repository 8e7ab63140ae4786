// Package apiserver serves the Kubernetes API: it wires the handlers and the registry of
// k8s.io/apiserver to the kinds of package kind and to the cluster's store.
//
// Its rooms are the kinds in the store with the one way of a write to them (registry), what a write must pass (admit,
// charge, bounds), who asks and what he may do (authn, authz, access), the HTTP face with its codec and gate (face), the ways
// to nodes and pods (tunnel), and the in-process client (local). This package composes them, and makes the objects that
// every cluster has. It refuses to know kinds one by one where the table of package kind can say it, and it runs no
// controllers.
//
// How the pieces fit, and what each decision costs, is told in docs/design/0003-api-server.md.
package apiserver
