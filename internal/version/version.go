// Package version says which release this binary is and which Kubernetes it speaks.
//
// It owns the two strings, which the build sets with -ldflags; it refuses everything else.
package version

// Coracle is the release, set by the build: -ldflags "-X coracle/internal/version.Coracle=v1.2.3".
var Coracle = "v0.1.0"

// Kubernetes is the API version served; /version and node.status report it with "+coracle".
const Kubernetes = "v1.37.2"
