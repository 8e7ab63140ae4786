// Package reexec is the first thing that happens in a process that is our own
// binary, executed again to become another program: a container's init (by
// libcontainer), a pod's init, the store of descriptors.
//
// It owns that one moment and refuses everything else: it imports nothing but
// libcontainer, and its path sorts before those of other modules, because Go
// initialises packages in the order of their paths once their own imports are
// done. So the container's init does not pay for initialising most of the
// Kubernetes libraries of the same binary (platform figures: 15-25 ms a start
// instead of 40-65). The other two take over before Go does, and pay nothing.
//
// Every program that runs containers imports it for its side effect.
package reexec

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // its C constructor joins the namespaces before Go starts
)

func init() {
	if len(os.Args) == 2 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		libcontainer.Init() // never returns
	}
}
