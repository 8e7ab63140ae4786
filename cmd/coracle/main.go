// Command coracle runs Kubernetes workloads: a cluster in one binary.
package main

import (
	"os"

	"coracle/internal/app"
)

func main() { os.Exit(app.Main(os.Args)) }
