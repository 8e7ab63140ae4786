package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"

	"coracle/internal/client"
	"coracle/internal/node/users"
	"coracle/internal/nodestate"
	"coracle/internal/pki"
	"coracle/internal/resource"
)

// startTimeout bounds the wait for one process to say that it is ready.
const startTimeout = 60 * time.Second

type upOptions struct {
	nodes    int
	simulate int
	asked
	detach     bool
	useContext bool
	// settings changes what the flags name of the cluster's settings.
	settings func(*Settings)
}

func newUp() *cobra.Command {
	var o upOptions
	var settings Settings
	var sysctls, forward []string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster on this machine, or what is missing of it",
		Long: `Start a cluster: the server (API, controllers, scheduler) and N nodes, each an agent and a
container runtime of its own. On a cluster that exists already it starts what does not run, and
adds nodes up to --nodes. --simulate N sees to it that there are at least N simulated nodes
(sim-0000 and on), which run no containers: their pods only seem to start, so that thousands of
nodes fit in the server. A cluster of simulated nodes alone needs no root. Without --detach it stays in the foreground and stops the cluster on
Ctrl-C; what the cluster holds is kept for the next up.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := processStart()
			dir, err := dataDir(cmd)
			if err != nil {
				return err
			}
			if o.simulate > 0 && !cmd.Flags().Changed("nodes") {
				o.nodes = 0
			}
			o.settings = func(s *Settings) {
				if cmd.Flags().Changed("pod-pids-limit") {
					s.PodPidsLimit = settings.PodPidsLimit
				}
				if cmd.Flags().Changed("reserved-pids") {
					s.ReservedPids = settings.ReservedPids
				}
				if cmd.Flags().Changed(users.Flag) {
					s.PodUserIDs = settings.PodUserIDs
				}
				if cmd.Flags().Changed(sysctlsFlag) {
					s.UnsafeSysctls = strings.Join(sysctls, ",")
				}
				if cmd.Flags().Changed(forwardFlag) {
					s.Forward = strings.Join(forward, ",")
				}
			}
			return up(cmd.Context(), cmd.OutOrStdout(), dir, o, began)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.nodes, "nodes", 1, "how many nodes to run at least (none by default with --simulate)")
	f.IntVar(&o.simulate, "simulate", 0, "how many simulated nodes to have at least (kubectl delete node removes one)")
	f.StringVar(&o.listen, "listen", "", "the API server's address (default "+defaultListen+", or a free port where that is taken)")
	f.BoolVarP(&o.detach, "detach", "d", false, "return when the cluster is ready and leave it running")
	f.BoolVar(&o.useContext, "use-context", false, `add the cluster to your own kubeconfig as the context "coracle" and select it`)
	f.Int64Var(&settings.PodPidsLimit, "pod-pids-limit", 0,
		"how many processes and threads a pod may have; -1 for no limit (default a quarter of its node's, at most 4096)")
	f.Int64Var(&settings.ReservedPids, "reserved-pids", 0,
		"how many processes and threads each node keeps from its pods (default a tenth of the machine's, 1024 to 8192)")
	f.StringVar(&settings.PodUserIDs, users.Flag, "",
		"users and groups of the machine that pods with hostUsers: false get, as FIRST:COUNT (default "+users.Default.String()+")")
	f.StringSliceVar(&sysctls, sysctlsFlag, nil, sysctlsHelp)
	f.StringVar(&o.domain, domainFlag, "", "the suffix of the cluster's names, when it is created (default "+clusterDomain+")")
	f.StringSliceVar(&forward, forwardFlag, nil, forwardHelp)
	f.StringSliceVar(&o.ranges.pods, podsFlag, nil, podsHelp)
	f.StringSliceVar(&o.ranges.services, servicesFlag, nil, servicesHelp)
	return cmd
}

func up(ctx context.Context, out io.Writer, dir DataDir, o upOptions, began time.Time) error {
	if o.simulate < 0 || o.simulate > mostSimulated {
		return fmt.Errorf("--simulate %d: want 0 to %d", o.simulate, mostSimulated)
	}
	least := 1
	if o.simulate > 0 {
		least = 0
	}
	if o.nodes < least || o.nodes > 250 {
		return fmt.Errorf("--nodes %d: want %d to 250", o.nodes, least)
	}
	if len(wantedNodes(dir, o.nodes)) > 0 && os.Geteuid() != 0 {
		return errors.New("running containers takes root: try `sudo coracle up`, or `coracle up --simulate 3` for nodes that run none")
	}
	var asked Settings
	o.settings(&asked)
	if err := asked.check(); err != nil {
		return err
	}
	started, cfg, err := start(ctx, dir, o)
	if err != nil {
		return errors.Join(err, stopStarted(dir, started))
	}
	held, err := holding(ctx, dir)
	if err != nil {
		return err
	}
	if len(held) > 0 && o.detach {
		// What runs is left running: it is for the user to say which history is the right one.
		tellHolds(out, held)
		return exitCode(1)
	}
	tellHolds(out, held)
	took := time.Since(began).Round(time.Millisecond)
	fmt.Fprintf(out, "Cluster ready in %s: %s, https://%s, KUBECONFIG=%s\n", took, nodesOf(dir, o), cfg.Listen, dir.Kubeconfig())
	tellKubeconfig(out, dir.Kubeconfig())
	if o.useContext {
		if err := selectUserContext(out, dir); err != nil {
			return err
		}
	}
	if o.detach {
		return nil
	}
	fmt.Fprintln(out, "Ctrl-C stops it.")
	// A second interrupt ends the wait for a slow stop.
	<-ctx.Done()
	again, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return stopCluster(again, out, dir, stopOptions{grace: defaultGrace, keepData: true})
}

// nodesOf says in words what nodes there are.
func nodesOf(dir DataDir, o upOptions) string {
	n := plural(len(dir.NodeNames()), "node")
	switch {
	case o.simulate == 0:
		return n
	case len(dir.NodeNames()) == 0:
		return plural(o.simulate, "simulated node")
	}
	return n + ", " + plural(o.simulate, "simulated node")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// start brings up whatever of the cluster is not running. It returns the processes it started,
// also when one of them failed.
func start(ctx context.Context, dir DataDir, o upOptions) ([]*child, ClusterConfig, error) {
	if !dir.Exists() {
		done, err := creating(ctx)
		if err != nil {
			return nil, ClusterConfig{}, err
		}
		defer done()
	}
	cfg, err := ensureConfig(dir, o.asked, time.Now())
	if err != nil {
		return nil, cfg, err
	}
	// The server's address before all else: where it is not to be had nothing has been changed.
	serve, err := serverListener(dir, cfg)
	if err != nil {
		return nil, cfg, err
	}
	if serve != nil {
		defer serve.Close()
	}
	if err := changeSettings(dir, &cfg, o.settings, runningRuntimes(dir)); err != nil {
		return nil, cfg, err
	}
	authority, err := ensureIdentity(dir, cfg)
	if err != nil {
		return nil, cfg, err
	}
	var started []*child
	launch := func(name string, listener *os.File, args ...string) error {
		if runningPID(dir.Lock(name)) != 0 {
			return nil
		}
		c, err := spawnWith(dir, name, listener, append(args, "--data-dir", string(dir))...)
		if err == nil {
			started = append(started, c)
		}
		return err
	}
	if err := launch("server", serve, "server"); err != nil {
		return started, cfg, err
	}
	if serve != nil {
		serve.Close() // it is the server's alone: should that end, nobody may wait here for an answer
	}
	for _, name := range wantedNodes(dir, o.nodes) {
		if err := ensureNodeIdentity(dir, cfg, authority, name); err != nil {
			return started, cfg, err
		}
		if err := launch(runtimeProcess(name), nil, "runtime", "--node", name); err != nil {
			return started, cfg, err
		}
		if err := launch(nodeProcess(name), nil, "node", "--name", name); err != nil {
			return started, cfg, err
		}
	}
	bounded, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("waited %s", startTimeout))
	defer cancel()
	for _, c := range started {
		if err := c.wait(bounded); err != nil {
			return started, cfg, err
		}
	}
	if err := restartForgotten(bounded, dir); err != nil {
		return started, cfg, err
	}
	names, err := simulate(bounded, dir, o.simulate)
	if err != nil {
		return started, cfg, err
	}
	names = append(names, dir.NodeNames()...)
	return started, cfg, awaitNodes(bounded, dir, names)
}

// runningRuntimes are the nodes whose runtime runs.
func runningRuntimes(dir DataDir) []string {
	return slices.DeleteFunc(dir.NodeNames(), func(name string) bool {
		return runningPID(dir.Lock(runtimeProcess(name))) == 0
	})
}

// restartForgotten starts the agents anew of nodes that run but were deleted from the API: an
// agent registers its node once, when it starts, as upstream's does, so that `kubectl delete
// node` stays true until somebody wants the node back.
func restartForgotten(ctx context.Context, dir DataDir) error {
	api, err := adminClient(dir)
	if err != nil {
		return err
	}
	nodes, _, err := api.List(ctx, resource.Nodes, client.ListOptions{})
	if err != nil {
		return fmt.Errorf("ask the server for its nodes: %w", err)
	}
	for _, name := range unregistered(dir, nodes) {
		process := nodeProcess(name)
		if _, err := stopProcess(dir.Lock(process), 10*time.Second); err != nil {
			return fmt.Errorf("restart %s: %w", process, err)
		}
		c, err := spawn(dir, process, "node", "--name", name, "--data-dir", string(dir))
		if err != nil {
			return err
		}
		if err := c.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// unregistered are the nodes that have a directory here and no object in the API.
func unregistered(dir DataDir, nodes []client.Object) []string {
	return slices.DeleteFunc(dir.NodeNames(), func(name string) bool {
		return slices.ContainsFunc(nodes, func(n client.Object) bool { return n.GetName() == name })
	})
}

// awaitNodes returns when every one of these nodes is Ready, or says that it holds.
func awaitNodes(ctx context.Context, dir DataDir, names []string) error {
	waiting := map[string]bool{}
	for _, name := range names {
		waiting[name] = true
	}
	api, err := adminClient(dir)
	if err != nil {
		return err
	}
	note := func(o runtime.Object) {
		if n, ok := o.(*corev1.Node); ok && (nodestate.Ready(n) || holdReason(n) != "") {
			delete(waiting, n.Name)
		}
	}
	nodes, revision, err := api.List(ctx, resource.Nodes, client.ListOptions{})
	if err != nil {
		return fmt.Errorf("ask the server for its nodes: %w", err)
	}
	for _, n := range nodes {
		note(n)
	}
	if len(waiting) == 0 {
		return nil
	}
	changes, err := api.Watch(ctx, resource.Nodes, client.ListOptions{Revision: revision})
	if err != nil {
		return fmt.Errorf("watch the nodes: %w", err)
	}
	defer changes.Stop()
	for e := range changes.ResultChan() {
		if note(e.Object); len(waiting) == 0 {
			return nil
		}
	}
	return fmt.Errorf("not ready: nodes %s: %w (logs: %s)", some(slices.Sorted(maps.Keys(waiting))), context.Cause(ctx), dir.join("logs"))
}

// stopStarted ends the processes of a start that failed, the newest first, and returns when they have ended.
func stopStarted(dir DataDir, started []*child) error {
	var errs []error
	for _, c := range slices.Backward(started) {
		if _, err := stopProcess(dir.Lock(c.name), 10*time.Second); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", c.name, err))
		}
	}
	return errors.Join(errs...)
}

func nodeProcess(node string) string    { return "node-" + node }
func runtimeProcess(node string) string { return "runtime-" + node }

// wantedNodes is every node that exists, and as many more as are asked for.
func wantedNodes(dir DataDir, n int) []string {
	names := dir.NodeNames()
	have := map[string]bool{}
	for _, name := range names {
		have[name] = true
	}
	for i := 1; len(names) < n; i++ {
		if name := fmt.Sprintf("node-%d", i); !have[name] {
			names = append(names, name)
		}
	}
	return names
}

// ensureIdentity makes the cluster's authority, the server's certificate and the
// administrator's kubeconfig.
func ensureIdentity(dir DataDir, cfg ClusterConfig) (*pki.Authority, error) {
	authority, err := pki.Ensure(dir.PKI(), serverHosts(cfg))
	if err != nil {
		return nil, fmt.Errorf("prepare the cluster's certificates: %w", err)
	}
	// What the user added to it stays. One that names no cluster at all leads nowhere, and is made anew.
	if old, err := clientcmd.LoadFromFile(dir.Kubeconfig()); err == nil && len(old.Clusters) > 0 {
		return authority, nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the cluster's kubeconfig is damaged; remove it, and `coracle up` writes another: %w", err)
	}
	pair, err := authority.ClientCert("coracle-admin", pki.MastersGroup)
	if err != nil {
		return nil, err
	}
	admin := identity{"coracle-admin", pair.Certificate, pair.Key}
	return authority, writeKubeconfig(dir.Kubeconfig(), kubeconfigFor("https://"+cfg.Listen, authority.CACert(), admin))
}

// serverHosts is every name and address by which the API server is called.
func serverHosts(cfg ClusterConfig) []string {
	hosts := []string{
		"localhost", "127.0.0.1", "::1",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + cfg.Domain,
	}
	for _, r := range cfg.Services() {
		hosts = append(hosts, firstAddress(r).String())
	}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	host, _, _ := net.SplitHostPort(cfg.Listen)
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil && host != "":
		return append(hosts, host)
	case err == nil && !addr.IsUnspecified():
		return append(hosts, host)
	}
	// It listens everywhere: name each address of this machine.
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			hosts = append(hosts, p.Addr().String())
		}
	}
	return hosts
}

// firstAddress is the first usable address of a range: that of the "kubernetes" service.
func firstAddress(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }
