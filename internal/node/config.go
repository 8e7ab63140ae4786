// Package node is the agent of one node: it registers the Node, keeps its lease, runs the pods
// bound to it through a CRI runtime, and shows their logs and terminals (the kubelet's HTTP face).
//
// It owns the effects; what to do next for a pod is decided by podsync, what to say of it by
// status, both pure. All it must know again after a restart it reads from the API and from the
// runtime or, without an API server, from what it kept on disk (podfile). It refuses to reach the cluster but through
// client.Interface, and containers but through CRI. Behaviour: https://kubernetes.io/docs/reference/command-line-tools-reference/kubelet/.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client"
	"coracle/internal/node/names"
	"coracle/internal/node/podlogs"
	"coracle/internal/node/routed"
	"coracle/internal/node/sysctl"
	"coracle/internal/node/users"
	"coracle/internal/view"
)

// MostPods is how many pods a node takes that does not say otherwise.
const MostPods = 110

// Config says which node this is.
type Config struct {
	// Name of the Node object; its client certificate must be that of system:node:NAME.
	Name   string
	Client client.Interface
	// RuntimeSocket is the path of the CRI runtime's unix socket.
	RuntimeSocket string
	// Dir holds pod directories and logs (nodes/NAME/agent).
	Dir string
	// DataDir is the cluster's directory on this machine: no path below it is told to users of the HTTP face.
	DataDir string
	// VolumeRoot holds the node-local class's volumes (annotation coracle.io/volume-root).
	VolumeRoot string
	// SharedVolumes is where the shared class keeps its volumes, unless a class says otherwise.
	SharedVolumes string
	// Listen is the address of the HTTP face, host:port; port 0 takes any.
	Listen string
	// TLS of the HTTP face: Certificates, and ClientCAs by which callers are known. Nil serves no face.
	TLS *tls.Config
	// NodeIP is the node's InternalIP; when not valid, the address of the default route's link,
	// or loopback where there is none.
	NodeIP netip.Addr
	// NodeIPs are the node's InternalIPs in a cluster of two families: those of the first one's first. Default NodeIP.
	NodeIPs []netip.Addr
	// ClusterDomain and ClusterDNS are how pods resolve names; without servers they ask the node (Names), or its resolvers.
	ClusterDomain string
	ClusterDNS    []string
	// Labels, Annotations and Taints are given to the Node when it registers. Labels and
	// annotations are kept so at every start; taints are the administrator's after that.
	Labels      map[string]string
	Annotations map[string]string
	Taints      []corev1.Taint
	// Snapshot, when set, is kept true to the cluster's Services and EndpointSlices and to this Node, as snapshot.KeepOf leaves
	// them. While no server answers whose word counts it stays as it was. SnapshotReady is closed once it holds all there is.
	Snapshot      *view.View
	SnapshotReady chan struct{}
	// Routed tells up to which revision of the Snapshot's EndpointSlices this node leads new connections as they say, and
	// has a channel that is closed when there is a later one. Nil when it leads none.
	Routed func() (revision uint64, later <-chan struct{})
	// LeftAlone, when set, says which ranges of services the node leaves alone, in the words of servicerange.Message; "" is none.
	LeftAlone func() string
	// AwaitRouted waits until all nodes have come to a revision of the EndpointSlices: to all. At the end of ctx it
	// returns who is behind. Nil has pods that serve stopped as soon as they are deleted.
	AwaitRouted func(ctx context.Context, revision uint64) (all uint64, behind []string, err error)
	// Isolation, when set, governs the node's pods by the network policies that FollowPeers has it told of: that returns
	// when the server tells no more.
	Isolation   Isolation
	FollowPeers func(context.Context) error
	// Names, when set, has the node answer for the cluster's names, by the Snapshot; pods ask it unless ClusterDNS says otherwise.
	Names *names.Config
	// Capacity overrides what the machine is found to have.
	Capacity corev1.ResourceList
	// MaxPods defaults to MostPods.
	MaxPods int
	// UserIDs are the users and groups of the machine that pods with hostUsers: false get; defaults to users.Default. All
	// agents of a machine may have the same: what is given is written down in the directory UsersBook, users.Dir by default.
	UserIDs   users.Range
	UsersBook string
	// UnsafeSysctls are the kernel parameters that pods may set here besides those that are safe.
	UnsafeSysctls sysctl.List
	// CgroupRoot is the cgroup of all pods of this node; defaults to /coracle-NAME.
	CgroupRoot string
	// Version is the kubelet version the Node shows.
	Version string
	Log     *slog.Logger
	// Started, when set, is called once the Node is registered and the face listens at addr.
	Started func(addr string)
}

func (c *Config) complete() error {
	switch {
	case c.Name == "":
		return errors.New("node: Name: give the node a name")
	case c.Client == nil:
		return errors.New("node: Client: none given")
	case c.RuntimeSocket == "":
		return errors.New("node: RuntimeSocket: name the CRI runtime's socket")
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("node: Dir %q: give an absolute path", c.Dir)
	case !filepath.IsAbs(c.VolumeRoot):
		return fmt.Errorf("node: VolumeRoot %q: give an absolute path", c.VolumeRoot)
	}
	if c.Names != nil && c.Snapshot == nil {
		return errors.New("node: Names: they are answered from the Picture; give one")
	}
	if (c.Isolation == nil) != (c.FollowPeers == nil) {
		return errors.New("node: Isolation, FollowPeers: give both or none")
	}
	if c.SnapshotReady == nil {
		c.SnapshotReady = make(chan struct{})
	}
	if c.Snapshot != nil {
		c.Snapshot.AddIndexes(routed.Indexes()...)
	}
	if c.MaxPods == 0 {
		c.MaxPods = MostPods
	}
	if c.UserIDs == (users.Range{}) {
		c.UserIDs = users.Default
	}
	if c.UserIDs.Pods() < c.MaxPods {
		return fmt.Errorf("node: UserIDs %s: %d ids for each of %d pods need %d", c.UserIDs, users.PerPod, c.MaxPods, c.MaxPods*users.PerPod)
	}
	if c.UsersBook == "" {
		c.UsersBook = users.Dir
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/coracle-" + c.Name
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if !c.NodeIP.IsValid() {
		c.NodeIP = HostAddress()
	}
	if len(c.NodeIPs) == 0 {
		c.NodeIPs = []netip.Addr{c.NodeIP}
	}
	return nil
}

// HostAddress is the address this machine would speak to others from. Nothing is sent.
func HostAddress() netip.Addr {
	conn, err := net.Dial("udp4", "198.51.100.1:9")
	if err == nil {
		defer conn.Close()
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			return a.AddrPort().Addr().Unmap()
		}
	}
	return netip.MustParseAddr("127.0.0.1")
}

// HostAddress6 is what HostAddress is, of IPv6; where nothing leads elsewhere, an address that the machine has outside of some
// ranges. It is not valid where there is none.
func HostAddress6(others ...netip.Prefix) netip.Addr {
	conn, err := net.Dial("udp6", "[2001:db8::1]:9")
	if err == nil {
		defer conn.Close()
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok && usable6(a.AddrPort().Addr(), others) {
			return a.AddrPort().Addr().WithZone("")
		}
	}
	addrs, _ := net.InterfaceAddrs() // without them there is none
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && usable6(p.Addr(), others) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

func usable6(a netip.Addr, others []netip.Prefix) bool {
	return a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() && !slices.ContainsFunc(others, func(p netip.Prefix) bool { return p.Contains(a) })
}

// podLogs is where this node's pods find logs.
func (c *Config) podLogs() podlogs.Place {
	return podlogs.Place{Logs: c.logRoot(), Links: c.linksDir(), Home: c.DataDir}
}

func (c *Config) podsDir() string     { return filepath.Join(c.Dir, "pods") }
func (c *Config) logRoot() string     { return filepath.Join(c.Dir, "logs") }
func (c *Config) linksDir() string    { return filepath.Join(c.Dir, "containers") }
func (c *Config) seccompDir() string  { return filepath.Join(c.Dir, "seccomp") }
func (c *Config) snapshotDir() string { return filepath.Join(c.Dir, "picture") }
func (c *Config) knownDir() string    { return filepath.Join(c.Dir, "known") }
