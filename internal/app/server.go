package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"coracle/internal/apiserver"
	"coracle/internal/client"
	"coracle/internal/client/remote"
	"coracle/internal/cluster"
	"coracle/internal/drain"
	"coracle/internal/fleet"
	"coracle/internal/librarylog"
	"coracle/internal/loop"
	"coracle/internal/node"
	"coracle/internal/peers"
	"coracle/internal/peers/tell"
	"coracle/internal/pki"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scheduler"
	"coracle/internal/store"
	"coracle/internal/version"
	"coracle/internal/view"
	"coracle/internal/why"
	whyserver "coracle/internal/why/server"
	"coracle/internal/workload"
)

func newServer() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the server: API, store, controllers and scheduler",
		Long:  "Run the server of the cluster in --data-dir in the foreground. Stopping it stops no pod.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd, "server", verbose, runServer)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every action")
	return cmd
}

// role is what a process is given to run.
type role struct {
	dir DataDir
	cfg ClusterConfig
	log *slog.Logger
	// ready tells the starter that this process serves, or why it cannot.
	ready func(error)
}

// runRole takes the process's place in the cluster and runs its role until the command's
// context ends.
func runRole(cmd *cobra.Command, process string, verbose bool, run func(context.Context, role) error) (err error) {
	dir, err := dataDir(cmd)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(dir)
	if err != nil {
		return err
	}
	here, err := present(dir, process)
	if err != nil {
		return err
	}
	defer here.lock.Close()
	defer func() { here.report(err) }()
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	slog.SetDefault(log)
	librarylog.Adopt(log)
	var once sync.Once
	return run(cmd.Context(), role{dir: dir, cfg: cfg, log: log, ready: func(err error) {
		once.Do(func() {
			here.report(err)
			for _, after := range settleTimes {
				time.AfterFunc(after, trimMemory)
			}
			reclaimMemory()
		})
	}})
}

// settleTimes are when, after it is ready, a process has done what starting takes, and what its
// first clients and first pods make it do once.
var settleTimes = []time.Duration{3 * time.Second, 30 * time.Second}

func runServer(ctx context.Context, r role) error {
	// The address first: nothing is touched by a server that cannot be reached.
	listener, err := inheritedListener()
	if err == nil && listener == nil {
		listener, err = listenAt(r.cfg.Listen)
	}
	if err != nil {
		return err
	}
	defer listener.Close()
	authority, err := pki.Ensure(r.dir.PKI(), serverHosts(r.cfg))
	if err != nil {
		return fmt.Errorf("prepare the cluster's certificates: %w", err)
	}
	st, err := openStore(r)
	if err != nil {
		return err
	}
	opened := uint64(st.Revision())
	advertise, err := advertised(r.cfg.Listen)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	var api *apiserver.Server
	told := newPeerTeller(func() client.Interface { return api.Client() })
	explain, led := &whyserver.Explainer{Names: why.Names{Domain: r.cfg.Domain, Ranges: r.cfg.all()}}, newRoutes()
	api, err = apiserver.New(apiserver.Config{
		Store: st, PKI: authority, Advertise: advertise, Endpoint: endpointFor(advertise), ServiceCIDR: r.cfg.Services()[0], SecondServiceCIDR: second(r.cfg.Services()),
		ClusterDomain: r.cfg.Domain, Log: r.log, Extra: map[string]http.Handler{whyserver.Path: answers(explain.Explain), storePath: storeTrouble{st}, drain.Path: led, peers.Path: told},
	})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	explain.Logs = api.LogTail
	if err := noteRun(ctx, api.Client(), opened); err != nil {
		return errors.Join(err, st.Close())
	}
	var parts sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts.Go(func() { runControllers(ctx, r, api.Client(), authority, explain, led, told) })
	r.ready(nil)
	err = api.Serve(ctx, listener)
	cancel()
	parts.Wait()
	return errors.Join(err, st.Close())
}

// openStore opens the cluster's store, and no other. A cluster of an earlier version learns which it is.
func openStore(r role) (*store.Store, error) {
	cfg := storeConfig(r.dir, r.cfg)
	cfg.Log = r.log
	st, err := store.Open(cfg)
	if err != nil {
		return nil, refused(r.dir, err)
	}
	if r.cfg.Store == st.Identity() {
		return st, nil
	}
	r.cfg.Store = st.Identity()
	if err := saveConfig(r.dir, r.cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("note the store's identity: %w", err), st.Close())
	}
	return st, nil
}

// runControllers runs everything that decides, on one shared snapshot of the cluster.
func runControllers(ctx context.Context, r role, api client.Interface, authority *pki.Authority, explain *whyserver.Explainer, led *routes, told peerTeller) {
	snapshot := view.New()
	decide := loop.New(api, snapshot, controllers(r, authority), loop.Options{Log: r.log})
	place := scheduler.New(api, snapshot, func(e plan.Event) { decide.Tell("default-scheduler", e) })
	simulate := fleet.New(api, snapshot, func(e plan.Event) { decide.Tell(fleet.Name, e) }, fleet.Options{Version: version.Version, Log: r.log})
	following := view.Follow(ctx, api, snapshot, union(decide.Resources(), scheduler.Resources(), fleet.Resources(), tell.Resources())...)
	explain.Follow(api, snapshot, decide, following)
	var parts sync.WaitGroup
	parts.Go(func() { led.follow(ctx, snapshot, following.Synced()) })
	parts.Go(func() { told.Follow(ctx, snapshot, following.Synced()) })
	parts.Go(func() { decide.Run(ctx, following.Synced()) })
	for _, run := range []func(context.Context){place.Run, simulate.Run} {
		parts.Go(func() {
			select {
			case <-following.Synced():
				run(ctx)
			case <-ctx.Done():
			}
		})
	}
	parts.Wait()
	<-following.Done()
}

// controllers are all planners of the cluster.
func controllers(r role, authority *pki.Authority) []plan.Controller {
	all := cluster.Controllers(cluster.Config{
		RootCA: string(authority.CACert()), PodRange: r.cfg.PodCIDR, PodRange6: r.cfg.PodCIDR6, First6: r.cfg.IPv6First,
		SharedVolumes: r.dir.SharedVolumes(),
	})
	return append(all,
		workload.Controllers()...)
}

// second is the second of two ranges, not valid where there is one.
func second(ranges []netip.Prefix) netip.Prefix {
	if len(ranges) < 2 {
		return netip.Prefix{}
	}
	return ranges[1]
}

func union(lists ...[]resource.Resource) []resource.Resource {
	seen := map[resource.Resource]bool{}
	var out []resource.Resource
	for _, list := range lists {
		for _, res := range list {
			if !seen[res] {
				seen[res] = true
				out = append(out, res)
			}
		}
	}
	return out
}

// advertised is the address that the kubernetes service leads to: where the server listens, or
// none where it listens everywhere or by name.
func advertised(listen string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("the cluster's listen address %q: %w", listen, err)
	}
	if host == "" || host == "localhost" {
		host = "127.0.0.1"
	}
	return netip.ParseAddrPort(net.JoinHostPort(host, port))
}

// endpointFor is the endpoint of the kubernetes service. A loopback address would mean another machine to each that reads
// it, and every address at once means none: then it is the nodes', which lead what is sent there to the server (apiFor).
func endpointFor(advertise netip.AddrPort) netip.AddrPort {
	if a := advertise.Addr(); a.IsLoopback() || a.IsUnspecified() {
		return netip.AddrPortFrom(node.HostAddress(), advertise.Port())
	}
	return advertise
}

// adminClient reaches the cluster as its administrator.
func adminClient(dir DataDir) (client.Interface, error) {
	return remote.FromKubeconfig(dir.Kubeconfig())
}
