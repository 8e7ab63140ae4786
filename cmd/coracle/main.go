// Command coracle runs Kubernetes workloads: a cluster in one binary.
package main

import (
	"os"

	"coracle/internal/app"
	_ "coracle/internal/runtime/reexec" // a container's init ends here, before anything else begins
)

func main() { os.Exit(app.Main(os.Args)) }
