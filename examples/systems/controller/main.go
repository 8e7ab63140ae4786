// Command controller is what many programs in a cluster are, made small: a client of the API server that finds it by what
// every pod has (client-go's in-cluster configuration).
//
//	controller watch          follows Services and EndpointSlices and prints where each service leads, as a proxy does
//	controller lead NAME      competes for the lease NAME with its replicas; the leader counts in a ConfigMap of that name
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "controller:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	api, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "watch":
		return watch(ctx, api)
	case len(args) == 2 && args[0] == "lead":
		return lead(ctx, api, args[1])
	}
	return errors.New("usage: controller watch | controller lead NAME")
}
