// Package peers measures a node's service proxy through a real server and a real kernel, and beside it kube-proxy, with the same
// services, the same changes and the same packets.
//
// By itself it does so with few services and without kube-proxy, for what it checks: that packets go where the API
// says. `make peers` builds kube-proxy and CoreDNS, which are modules of their own below, and prints the figures of all.
//
// It owns the measuring; what a proxy writes is tested in internal/network/services.
package peers

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"coracle/internal/apiserver"
	"coracle/internal/client/remote"
	"coracle/internal/librarylog"
	"coracle/internal/network/services"
	"coracle/internal/node/snapshot"
	"coracle/internal/pki"
	"coracle/internal/resource"
	"coracle/internal/store"
	"coracle/internal/view"
)

var (
	kubeProxy = flag.String("peers.kubeproxy", "", "kube-proxy to measure besides (test/peers/kubeproxy)")
	sizes     = flag.String("peers.sizes", "20x3", "services x endpoints, several with commas")
	changes   = flag.Int("peers.changes", 20, "how many changes of one endpoint to measure")
)

// In the environment, they make the test binary a server on that directory, or a proxy by that kubeconfig: each has a process
// of its own, so that its processor time and memory can be told.
const (
	serverDir   = "CORACLE_PEERS_SERVER"
	proxyConfig = "CORACLE_PEERS_PROXY"
)

// The cluster's ranges: room for a million pods.
var (
	ofPods     = netip.MustParsePrefix("10.128.0.0/10")
	ofServices = netip.MustParsePrefix("10.96.0.0/16")
)

const nodeName = "one"

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(serverDir) != "":
		err = serve(os.Getenv(serverDir))
	case os.Getenv(proxyConfig) != "":
		err = lead(os.Getenv(proxyConfig))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// untilInputEnds is a context that ends with standard input: with whoever started this process.
func untilInputEnds() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return ctx
}

// serve is an API server, which prints where it listens.
func serve(dir string) error {
	log := slog.New(slog.DiscardHandler)
	librarylog.Adopt(log)
	st, err := store.Open(store.Config{Dir: filepath.Join(dir, "store")})
	if err != nil {
		return err
	}
	defer st.Close()
	ca, err := pki.Ensure(filepath.Join(dir, "pki"), []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := apiserver.New(apiserver.Config{
		Store: st, PKI: ca, Advertise: netip.MustParseAddrPort(l.Addr().String()), ServiceCIDR: ofServices, Log: log,
	})
	if err != nil {
		return err
	}
	ctx := untilInputEnds()
	fmt.Println(l.Addr())
	return s.Serve(ctx, l)
}

// lead is the part of an agent that leads services: its line to the server, its snapshot, its router.
func lead(kubeconfig string) (err error) {
	c, err := remote.FromKubeconfig(kubeconfig)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, seen := untilInputEnds(), view.New()
	ready := make(chan struct{})
	router, err := services.Open(services.Config{
		Node: nodeName, Table: "services-peers", Bridge: "cor-peers", Siblings: "cor-", Pods: ofPods, Services: ofServices, Snapshot: seen, Ready: ready,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, router.Close()) }()
	following := view.FollowSources(ctx, c, seen,
		view.Source{Resource: resource.Nodes, FieldSelector: "metadata.name=" + nodeName, Keep: snapshot.KeepOf},
		view.Source{Resource: resource.Services, Keep: snapshot.KeepOf},
		view.Source{Resource: resource.EndpointSlices, Keep: snapshot.KeepOf},
		view.Source{Resource: resource.ServiceCIDRs},
	)
	go func() {
		<-following.Synced()
		close(ready)
	}()
	router.Run(ctx)
	<-following.Done()
	return nil
}
