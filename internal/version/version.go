// Package version says which Kubernetes the cluster speaks and which build of Coracle this is.
//
// It owns two facts that the linker may override; it refuses everything else.
package version

import (
	"runtime"

	apiversion "k8s.io/apimachinery/pkg/version"
)

// Version is what /version reports as gitVersion and nodes as their kubelet version. Override it
// with -ldflags "-X coracle/internal/version.Version=v1.37.2+coracle.1".
var Version = "v1.37.2+coracle"

// Commit is the commit the binary was built from, empty when the build did not say. Override it
// with -ldflags "-X coracle/internal/version.Commit=...".
var Commit = ""

// Kubernetes is the minor version whose behaviour the cluster promises.
const (
	Major = "1"
	Minor = "37"
)

// Info is the body of /version.
func Info() apiversion.Info {
	return apiversion.Info{
		Major:        Major,
		Minor:        Minor,
		GitVersion:   Version,
		GitCommit:    Commit,
		GitTreeState: "clean",
		BuildDate:    "1970-01-01T00:00:00Z",
		GoVersion:    runtime.Version(),
		Compiler:     runtime.Compiler,
		Platform:     runtime.GOOS + "/" + runtime.GOARCH,
	}
}
