package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/validation"

	"coracle/internal/dns"
	"coracle/internal/node"
	"coracle/internal/node/sysctl"
	"coracle/internal/node/users"
	"coracle/internal/store"
)

// ClusterConfig is what a cluster is created with. It is written to cluster.json at creation, and again when its settings
// change or its store is rebuilt.
type ClusterConfig struct {
	// ID is a short random name; bridges, cgroups and nftables tables carry it, so that several
	// clusters live side by side on one machine.
	ID string `json:"id"`
	// Listen is the API server's address, host:port.
	Listen string `json:"listen"`
	Ranges
	// Domain is the DNS suffix of the cluster.
	Domain  string    `json:"domain"`
	Created time.Time `json:"created"`
	// Store is the identity of the store, which was begun before this was written. It is empty in a
	// cluster of an earlier version until its server has started once.
	Store string `json:"store,omitempty"`
	Settings
}

// Settings are what `up` may change of a cluster. Each node's agent and runtime read them when they start.
type Settings struct {
	// PodPidsLimit is how many processes and threads a pod may have (the kubelet's podPidsLimit):
	// -1 for no limit, 0 for the runtime's default.
	PodPidsLimit int64 `json:"podPidsLimit,omitempty"`
	// ReservedPids are kept from the pods of each node; 0 for the runtime's default.
	ReservedPids int64 `json:"reservedPids,omitempty"`
	// UnsafeSysctls are the kernel parameters that pods may set besides the safe ones, as sysctl.Parse reads them (the
	// kubelet's allowedUnsafeSysctls).
	UnsafeSysctls string `json:"allowedUnsafeSysctls,omitempty"`
	// Forward are the name servers of names outside the cluster, as dns.ParseRoutes reads them.
	Forward string `json:"dnsForward,omitempty"`
	// PodUserIDs are the users and groups of the machine that pods with hostUsers: false get, as users.Parse reads them.
	PodUserIDs string `json:"podUserIDs,omitempty"`
}

func (s Settings) check() error {
	switch {
	case s.PodPidsLimit < -1:
		return fmt.Errorf("--pod-pids-limit %d: want a positive number, -1 for no limit, or 0 for the default", s.PodPidsLimit)
	case s.ReservedPids < 0:
		return fmt.Errorf("--reserved-pids %d: want a positive number, or 0 for the default", s.ReservedPids)
	}
	if _, err := sysctl.Parse(s.UnsafeSysctls); err != nil {
		return fmt.Errorf("--allowed-unsafe-sysctls: %w", err)
	}
	if _, err := dns.ParseRoutes(s.Forward); err != nil {
		return fmt.Errorf("--%s: %w", forwardFlag, err)
	}
	ids, err := users.Parse(s.PodUserIDs)
	if err == nil && ids.Pods() < node.MostPods {
		err = fmt.Errorf("%s: want at least %d, for %d pods of a node", ids, node.MostPods*users.PerPod, node.MostPods)
	}
	if err != nil {
		return fmt.Errorf("--%s: %w", users.Flag, err)
	}
	return nil
}

// changeSettings makes and writes a change of a cluster's settings. It is refused while nodes run:
// they would go on with the old ones.
func changeSettings(dir DataDir, cfg *ClusterConfig, change func(*Settings), running []string) error {
	next := cfg.Settings
	change(&next)
	if next == cfg.Settings {
		return nil
	}
	if len(running) > 0 {
		return fmt.Errorf("--pod-pids-limit, --reserved-pids, --pod-user-ids, --allowed-unsafe-sysctls and --dns-forward cannot change while nodes run (%s): `coracle down --keep-data` first",
			some(running))
	}
	cfg.Settings = next
	return saveConfig(dir, *cfg)
}

const (
	defaultListen = "127.0.0.1:6443"
	clusterDomain = "cluster.local"
)

// asked is what a user asks of a cluster that is to be created. An empty listen means the default address, or a free port
// where that one is taken; an empty domain is the default one, and ranges that are left out are chosen.
type asked struct {
	listen, domain string
	ranges         askedRanges
}

// ensureConfig reads cluster.json or creates the cluster.
func ensureConfig(dir DataDir, ask asked, now time.Time) (ClusterConfig, error) {
	listen, domain := ask.listen, ask.domain
	if dir.Exists() {
		cfg, err := loadConfig(dir)
		if err == nil {
			err = dir.prepare()
		}
		if err == nil {
			err = mendCopy(dir, cfg)
		}
		if err == nil && listen != "" && listen != cfg.Listen {
			err = fmt.Errorf("this cluster listens on %s, not on %s: leave --listen out, or create another cluster with its own --data-dir", cfg.Listen, listen)
		}
		if domain = strings.TrimSuffix(domain, "."); err == nil && domain != "" && domain != cfg.Domain {
			err = fmt.Errorf("this cluster's domain is %s, not %s: leave --%s out, or create another cluster with its own --data-dir",
				cfg.Domain, domain, domainFlag)
		}
		if err == nil {
			err = ask.ranges.same(cfg.Ranges)
		}
		return cfg, err
	}
	if err := createdBefore(dir); err != nil {
		return ClusterConfig{}, err
	}
	domain, err := checkDomain(domain)
	if err != nil {
		return ClusterConfig{}, err
	}
	address, err := chooseListen(listen)
	if err != nil {
		return ClusterConfig{}, err
	}
	taken, err := takenRanges()
	if err != nil {
		return ClusterConfig{}, err
	}
	ranges, err := ask.ranges.choose(taken)
	if err == nil && ranges.Dual() {
		err = hasIPv6()
	}
	if err != nil {
		return ClusterConfig{}, err
	}
	id := make([]byte, 3)
	if _, err := rand.Read(id); err != nil {
		return ClusterConfig{}, err
	}
	cfg := ClusterConfig{
		ID: hex.EncodeToString(id), Listen: address, Ranges: ranges, Domain: domain, Created: now.UTC(),
	}
	if err := dir.prepare(); err != nil {
		return ClusterConfig{}, err
	}
	// First the store, then what says that there is one: so cluster.json without a store is damage.
	cfg.Store, err = store.Begin(store.Config{Dir: dir.Store(), Mark: dir.StoreMark()})
	if errors.Is(err, store.ErrHolds) {
		err = errors.Join(lostConfig(dir), err)
	}
	if err != nil {
		return ClusterConfig{}, fmt.Errorf("begin the store: %w", err)
	}
	return cfg, saveConfig(dir, cfg)
}

// The flags for names.
const (
	domainFlag  = "cluster-domain"
	forwardFlag = "dns-forward"
	forwardHelp = "whom to ask for names outside the cluster, such as corp.example=10.0.0.53;10.0.0.54 or .=192.0.2.53:5353 for all (default the machine's resolv.conf)"
)

// checkDomain refuses what is no domain for a cluster: names below it, such as those of services, must have room.
func checkDomain(domain string) (string, error) {
	domain = strings.TrimSuffix(domain, ".")
	if domain == "" {
		return clusterDomain, nil
	}
	if problems := validation.IsDNS1123Subdomain(domain); len(problems) > 0 {
		return "", fmt.Errorf("--%s %q: %s", domainFlag, domain, problems[0])
	}
	const room = 253 - 63 - 63 - 63 - len("....svc")
	if len(domain) > room {
		return "", fmt.Errorf("--%s %q: at most %d bytes, so that names of pods fit before it", domainFlag, domain, room)
	}
	return domain, nil
}

func chooseListen(listen string) (string, error) {
	if listen != "" {
		if _, port, err := net.SplitHostPort(listen); err != nil || port == "" {
			return "", fmt.Errorf("--listen %q: want HOST:PORT, such as %s", listen, defaultListen)
		}
	}
	wanted := listen
	if wanted == "" {
		wanted = defaultListen
	}
	l, err := listenAt(wanted)
	if err != nil && listen == "" {
		l, err = listenAt("127.0.0.1:0")
	}
	if err != nil {
		return "", fmt.Errorf("--listen %s: %w", wanted, err)
	}
	defer l.Close()
	host, _, _ := net.SplitHostPort(wanted)
	return net.JoinHostPort(host, strconv.Itoa(l.Addr().(*net.TCPAddr).Port)), nil
}

// creationLock is what a cluster's creation locks: a directory that every machine has, so that
// no file of ours is left behind.
const creationLock = "/run"

// creating waits until no other cluster of this machine is being created. A cluster's pod range
// can be seen to be taken only once its nodes' bridges are there; two that are created at once
// would choose the same.
func creating(ctx context.Context) (done func(), err error) {
	lock, err := os.Open(creationLock)
	if err != nil {
		return nil, fmt.Errorf("create a cluster: %w", err)
	}
	locked := make(chan error, 1)
	go func() { locked <- unix.Flock(int(lock.Fd()), unix.LOCK_EX) }()
	select {
	case err = <-locked:
		if err == nil {
			return func() { lock.Close() }, nil
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("wait for another cluster's creation: %w", err)
}

// takenRanges are those that this machine has addresses in, or routes to: the nodes of another cluster have a route for
// its services.
func takenRanges() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	var taken []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			taken = append(taken, p.Masked())
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list this machine's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		// The default route, and those of a whole class of networks, are nobody's home.
		if p, err := netip.ParsePrefix(r.Dst.String()); err == nil && p.Bits() > 8 {
			taken = append(taken, p.Masked())
		}
	}
	return taken, nil
}

// freeRange returns the first range of the pattern, from the octet given and wrapping, that overlaps none of those taken.
func freeRange(pattern string, from int, taken []netip.Prefix) (netip.Prefix, error) {
search:
	for i := range 128 {
		octet := from + i
		if octet > 255 {
			octet -= 128
		}
		p := netip.MustParsePrefix(fmt.Sprintf(pattern, octet))
		for _, t := range taken {
			if t.Overlaps(p) {
				continue search
			}
		}
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("none is free: every one of 128 such as "+pattern+" overlaps an address or a route of this machine", from)
}

// writeJSON writes a file whole or not at all.
func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(raw, '\n'), 0o600)
}

func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
