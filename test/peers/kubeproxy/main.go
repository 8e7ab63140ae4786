// Command kubeproxy is Kubernetes' own service proxy, to be measured beside a node's: see the README of the folder above.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-proxy/app"
)

func main() { os.Exit(cli.Run(app.NewProxyCommand())) }
