// Package apiserver serves the Kubernetes API: it wires the handlers and the registry of
// k8s.io/apiserver to the kinds of package kind and to the cluster's store.
//
// It owns the HTTP face (handler chain, routes, discovery, OpenAPI), the subresources that are
// more than an update (binding, eviction, token, log, exec, scale), authentication and
// authorization (authn, authz), admission (admit) and the in-process client (local). It refuses
// to know kinds one by one where the table of package kind can say it, and it runs no
// controllers.
//
// How the pieces fit, and what each decision costs, is told in docs/design/0003-api-server.md.
package apiserver
