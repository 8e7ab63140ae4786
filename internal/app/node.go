package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/remote"
	"coracle/internal/dns"
	"coracle/internal/filetree"
	"coracle/internal/network/isolation"
	"coracle/internal/network/services"
	"coracle/internal/node"
	nodenames "coracle/internal/node/names"
	"coracle/internal/node/sysctl"
	"coracle/internal/node/users"
	"coracle/internal/object"
	"coracle/internal/pki"
	"coracle/internal/resource"
	"coracle/internal/runtime"
	"coracle/internal/runtime/fdstore"
	"coracle/internal/version"
	"coracle/internal/view"
)

// leanGC is the garbage collector's target for processes that are small and mostly idle: memory
// is worth more to them than a little CPU.
const leanGC = 40

// The flag for the kernel parameters that pods may set.
const (
	sysctlsFlag = "allowed-unsafe-sysctls"
	sysctlsHelp = "kernel parameters that pods may set besides the safe ones, such as net.core.somaxconn or net.ipv6.*"
)

func newNode() *cobra.Command {
	var name string
	var verbose bool
	var unsafeSysctls []string
	cmd := &cobra.Command{
		Use:   "node --name NAME",
		Short: "Run a node's agent",
		Long: `Run the agent of a node of the cluster in --data-dir in the foreground. Its runtime must run
too. Stopping the agent stops no container.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd, nodeProcess(name), verbose, func(ctx context.Context, r role) error {
				if cmd.Flags().Changed(sysctlsFlag) {
					r.cfg.UnsafeSysctls = strings.Join(unsafeSysctls, ",")
				}
				return runNode(ctx, r, name)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the node's name")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every action")
	cmd.Flags().StringSliceVar(&unsafeSysctls, sysctlsFlag, nil, sysctlsHelp+" (default the cluster's, of `up`)")
	cmd.MarkFlagRequired("name") //nolint:errcheck // fails only for a flag that does not exist
	cmd.AddCommand(newNodeAccept())
	return cmd
}

func newRuntime() *cobra.Command {
	var name string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "runtime --node NAME",
		Short: "Run a node's container runtime (CRI on a unix socket)",
		Long: `Run the container runtime of a node of the cluster in --data-dir in the foreground. Stopping the
runtime stops no container: the next one finds them again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd, runtimeProcess(name), verbose, func(ctx context.Context, r role) error {
				debug.SetGCPercent(leanGC)
				if err := r.dir.nodeHere(name); err != nil {
					return err
				}
				cfg := runtimeConfig(r.dir, r.cfg, name, r.log)
				cfg.Started = func() { r.ready(nil) }
				return runtime.Run(ctx, cfg)
			})
		},
	}
	cmd.Flags().StringVar(&name, "node", "", "the node's name")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every action")
	cmd.MarkFlagRequired("node") //nolint:errcheck // fails only for a flag that does not exist
	return cmd
}

// nodeID is a short name of a node that is its own on this machine.
func nodeID(cfg ClusterConfig, name string) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s", cfg.ID, name)
	return fmt.Sprintf("%08x", h.Sum32())
}

func runtimeConfig(dir DataDir, cfg ClusterConfig, name string, log *slog.Logger) runtime.Config {
	return runtime.Config{
		Socket: runtimeSocket(dir, cfg, name), StateDir: runtimeDir(dir, name),
		ImageDir: dir.Images(), ID: nodeID(cfg, name), CgroupRoot: cgroupRoot(cfg, name), ClusterCIDR: cfg.PodCIDR, ServiceCIDR: cfg.ServiceCIDR,
		ClusterCIDR6: cfg.PodCIDR6, ServiceCIDR6: cfg.ServiceCIDR6, Logger: log,
		PodPidsLimit: cfg.PodPidsLimit, ReservedPids: cfg.ReservedPids,
	}
}

func cgroupRoot(cfg ClusterConfig, name string) string { return "/coracle-" + nodeID(cfg, name) }

// maxSocketPath is the longest path of a unix socket (unix(7)).
const maxSocketPath = 107

// runtimeSocket lies in the data directory, or under /run where that path would be too long.
func runtimeSocket(dir DataDir, cfg ClusterConfig, name string) string {
	path := filepath.Join(dir.Node(name), "runtime.sock")
	if len(path) > maxSocketPath {
		path = "/run/coracle-" + nodeID(cfg, name) + ".sock"
	}
	return path
}

func agentDir(dir DataDir, name string) string   { return filepath.Join(dir.Node(name), "agent") }
func runtimeDir(dir DataDir, name string) string { return filepath.Join(dir.Node(name), "runtime") }
func volumeRoot(dir DataDir, name string) string { return filepath.Join(dir.Node(name), "volumes") }

// The files of a node's identity, in its agent directory.
const (
	nodeKubeconfig = "kubeconfig"
	nodeServing    = "serving.pem"
	nodeCA         = "ca.pem"
)

// ensureNodeIdentity gives a node its kubeconfig and the certificate of its HTTP face, new ones
// each time: this machine's addresses may have changed.
func ensureNodeIdentity(dir DataDir, cfg ClusterConfig, authority *pki.Authority, name string) error {
	if runningPID(dir.Lock(nodeProcess(name))) != 0 {
		return nil
	}
	user := "system:node:" + name
	pair, err := authority.ClientCert(user, "system:nodes")
	if err != nil {
		return fmt.Errorf("certificate of node %s: %w", name, err)
	}
	who := identity{user, pair.Certificate, pair.Key}
	at := agentDir(dir, name)
	if err := writeKubeconfig(filepath.Join(at, nodeKubeconfig), kubeconfigFor("https://"+cfg.Listen, authority.CACert(), who)); err != nil {
		return err
	}
	hosts := append(serverHosts(cfg), name)
	for _, a := range nodeAddresses(cfg) {
		hosts = append(hosts, a.String())
	}
	serving, err := authority.ServerCert(user, hosts)
	if err != nil {
		return fmt.Errorf("certificate of node %s: %w", name, err)
	}
	if err := writeFile(filepath.Join(at, nodeServing), append(serving.Certificate, serving.Key...), 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(at, nodeCA), authority.CACert(), 0o644)
}

// nodeAddresses are the addresses of this machine as others reach it: of the first family first, one of each that it has.
func nodeAddresses(cfg ClusterConfig) []netip.Addr {
	out := []netip.Addr{node.HostAddress()}
	if !cfg.Dual() {
		return out
	}
	if a := node.HostAddress6(cfg.PodCIDR6, cfg.ServiceCIDR6); a.IsValid() {
		out = append(out, a)
	}
	if cfg.IPv6First {
		slices.Reverse(out)
	}
	return out
}

func runNode(ctx context.Context, r role, name string) error {
	debug.SetGCPercent(leanGC)
	if err := r.dir.nodeHere(name); err != nil {
		return err
	}
	at := agentDir(r.dir, name)
	api, err := remote.FromKubeconfig(filepath.Join(at, nodeKubeconfig))
	if err != nil {
		return fmt.Errorf("node %s has no identity here; `coracle up` makes one: %w", name, err)
	}
	face, err := faceTLS(at)
	if err != nil {
		return err
	}
	names, done, err := nodeNames(r, name)
	if err != nil {
		return err
	}
	defer done()
	addresses := nodeAddresses(r.cfg)
	sysctls, err := sysctl.Parse(r.cfg.UnsafeSysctls)
	if err != nil {
		return fmt.Errorf("--%s (in %s: allowedUnsafeSysctls): %w", sysctlsFlag, r.dir.ConfigFile(), err)
	}
	ids, err := users.Parse(r.cfg.PodUserIDs)
	if err != nil {
		return fmt.Errorf("--%s (in %s: podUserIDs): %w", users.Flag, r.dir.ConfigFile(), err)
	}
	snapshot, snapshotKinds := view.New(), make(chan struct{})
	ways, err := openWays(routings(r.cfg, name, snapshot, snapshotKinds, r.log))
	if err != nil {
		return err
	}
	ask, err := askRouted(api.Config())
	if err != nil {
		return err
	}
	isolated, err := openIsolation(r, name)
	if err != nil {
		return err
	}
	hear, err := askPeers(api.Config())
	if err != nil {
		return err
	}
	var parts sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer parts.Wait()
	defer cancel()
	parts.Go(func() { ways.run(ctx) })
	parts.Go(func() { isolated.Run(ctx) })
	return node.Run(ctx, node.Config{
		UnsafeSysctls: sysctls, UserIDs: ids, Snapshot: snapshot, SnapshotReady: snapshotKinds, Routed: ways.committed, LeftAlone: ways.leftAlone, AwaitRouted: ask, Names: names,
		Isolation: isolated, FollowPeers: func(ctx context.Context) error { return hear(ctx, isolated.OnChange) },
		Name: name, Client: api, RuntimeSocket: runtimeSocket(r.dir, r.cfg, name), Dir: at, DataDir: string(r.dir),
		VolumeRoot: volumeRoot(r.dir, name), SharedVolumes: r.dir.SharedVolumes(), Listen: net.JoinHostPort(addresses[0].String(), "0"),
		NodeIP: addresses[0], NodeIPs: addresses, TLS: face,
		ClusterDomain: r.cfg.Domain, CgroupRoot: cgroupRoot(r.cfg, name), Version: version.Version, Log: r.log,
		Started: func(string) { r.ready(nil) },
	})
}

// nodeNames is how a node answers for names. Its sockets are kept by a process of their own, for the next agent.
func nodeNames(r role, name string) (*nodenames.Config, func(), error) {
	forward, err := dns.ParseRoutes(r.cfg.Forward)
	if err != nil {
		return nil, nil, fmt.Errorf("--%s (in %s: dnsForward): %w", forwardFlag, r.dir.ConfigFile(), err)
	}
	names := &nodenames.Config{Ranges: r.cfg.all(), Forward: forward}
	shelf, err := fdstore.Open(agentDir(r.dir, name))
	if err != nil { // names are answered all the same, only not while the agent restarts
		r.log.Warn("the sockets of names end with this agent", "err", err)
		return names, func() {}, nil
	}
	names.Shelf = shelf
	return names, func() { _ = shelf.Close() }, nil
}

// dropSockets ends the process that keeps a node's sockets.
func dropSockets(dir DataDir, name string) error {
	at := agentDir(dir, name)
	if _, err := os.Stat(filepath.Join(at, fdstore.Socket)); err != nil {
		return nil //nolint:nilerr // there is none
	}
	shelf, err := fdstore.Open(at)
	if err != nil {
		return fmt.Errorf("let go of the sockets of node %s: %w", name, err)
	}
	return errors.Join(shelf.Drop(""), shelf.Close())
}

// faceTLS is how the node's HTTP face shows itself, and by whom its callers must be vouched for.
func faceTLS(at string) (*tls.Config, error) {
	serving, err := tls.LoadX509KeyPair(filepath.Join(at, nodeServing), filepath.Join(at, nodeServing))
	if err != nil {
		return nil, fmt.Errorf("certificate of the node's HTTP face: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(at, nodeCA))
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(at, nodeCA))
	}
	return &tls.Config{Certificates: []tls.Certificate{serving}, ClientCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// stopNode ends a node: its agent, its runtime and all its containers.
func stopNode(ctx context.Context, dir DataDir, cfg ClusterConfig, name string, o stopOptions) error {
	for _, process := range []string{nodeProcess(name), runtimeProcess(name)} {
		if _, err := stopProcess(dir.Lock(process), 10*time.Second); err != nil {
			return fmt.Errorf("stop %s: %w", process, err)
		}
	}
	if err := dropSockets(dir, name); err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	if err := runtime.Destroy(ctx, runtimeConfig(dir, cfg, name, quiet), o.grace); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	if err := services.Remove(servicesTable(cfg, name)); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	if err := isolation.Remove(policiesTable(cfg, name)); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	if err := users.Forget(users.Dir, agentDir(dir, name)); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	if err := os.Remove(runtimeSocket(dir, cfg, name)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("node %s: %w", name, err)
	}
	return unmountIn(nodeMountRoots(dir, name)...)
}

// removeNode ends one node and takes it out of the cluster.
func removeNode(ctx context.Context, out io.Writer, dir DataDir, name string, o stopOptions) error {
	cfg, err := loadConfig(dir)
	if err != nil {
		return err
	}
	if err := dir.nodeHere(name); err != nil {
		return err
	}
	if err := stopNode(ctx, dir, cfg, name, o); err != nil {
		return err
	}
	if !o.keepData {
		if err := refuseMounts(dir, dir.Node(name)); err != nil {
			return err
		}
	}
	if runningPID(dir.Lock("server")) != 0 {
		if err := deleteNode(ctx, dir, name); err != nil {
			return err
		}
	}
	if o.keepData {
		fmt.Fprintf(out, "Node %s removed; its data is kept in %s\n", name, dir.Node(name))
		return nil
	}
	for _, process := range []string{nodeProcess(name), runtimeProcess(name)} {
		if err := os.Remove(dir.Lock(process)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove node %s: %w", name, err)
		}
	}
	if err := filetree.Remove(dir.Node(name)); err != nil {
		return fmt.Errorf("remove node %s: %w", name, err)
	}
	fmt.Fprintf(out, "Node %s removed\n", name)
	return nil
}

func deleteNode(ctx context.Context, dir DataDir, name string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	api, err := adminClient(dir)
	if err != nil {
		return err
	}
	_, err = api.Delete(ctx, object.Ref{Resource: resource.Nodes, Key: object.Key{Name: name}}, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s from the API: %w", name, err)
	}
	return nil
}
