// Package pod gives the pods of one node their network: a bridge that holds the node's pod
// range, one veth pair for each sandbox, addresses that survive restarts, masquerading of
// what leaves the cluster, and ports published at the host's addresses.
//
// It owns the bridge, the veths whose master it is, an nftables table of each of the families ip, bridge and, with IPv6, ip6, which
// it puts back when others change them, and the leases under its state directory. Pods on different nodes of one machine reach each other because every bridge
// is in the host's network namespace and its range is a connected route. It refuses services
// (package services) and network policy, and everything about the namespace
// itself: the caller makes it and hands over its path.
package pod

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
	"coracle/internal/network/setting"
)

// Config says what a node's pod network is.
type Config struct {
	// Bridge names the bridge: at most 15 bytes, unique on the machine.
	Bridge string
	// CIDR is the node's pod range (node.spec.podCIDR), IPv4. The bridge takes its first
	// address, pods the others; the last one (broadcast) is not used.
	CIDR netip.Prefix
	// ClusterCIDR is the range of all pods. Traffic from CIDR to anywhere outside it is masqueraded.
	ClusterCIDR netip.Prefix
	// Services, when valid, is the range of the cluster's service addresses. The bridge gets a route for it, so that the
	// node itself has one whatever others it has; where they lead is package services' business.
	Services netip.Prefix
	// IPv6, when it is valid, gives each pod an address of that family besides.
	IPv6 Second
	// MTU of the bridge and the veths; 0 takes that of the link with the default route, or 1500.
	MTU int
	// StateDir holds the leases. It is made when missing.
	StateDir string
	// NFTable names the nftables tables (families ip, bridge and, with IPv6, ip6), unique on the machine.
	NFTable string
	// SettingsDir is where it is written what settings of the machine were before a network changed them; default
	// setting.DefaultDir. All networks of a machine have the same.
	SettingsDir string
	// Log hears of what others did to the network and what was done about it; nil: nobody does.
	Log *slog.Logger
}

// Attachment is what a sandbox got.
type Attachment struct {
	// Interface is the name of the link inside the namespace: always "eth0".
	Interface string
	IP        netip.Addr
	Gateway   netip.Addr
	// IP6 and Gateway6 are not valid in a network of one family.
	IP6, Gateway6 netip.Addr
	MAC           net.HardwareAddr
	// MTU of the link inside the namespace.
	MTU int
}

// Network is an open pod network. Its methods are safe for concurrent use.
type Network struct {
	cfg     Config
	gateway netip.Addr
	mtu     int
	bridge  int // link index
	host    netns.NsHandle
	links   *netlink.Handle
	leases  *leases
	ports   *ports
	keeping

	mu   sync.Mutex
	busy map[string]*turn // one Attach or Detach at a time for a sandbox
}

type turn struct {
	sync.Mutex
	users int // that hold or wait for it; guarded by Network.mu
}

const podInterface = "eth0"

// Open makes the network true - bridge, address, forwarding, masquerading - and returns it. What
// is already there is kept, so that running pods lose nothing. The network is the one of the
// calling thread's network namespace, whichever thread the methods are called from later.
func Open(cfg Config) (*Network, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	host, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("pod network: network namespace: %w", err)
	}
	n := &Network{cfg: cfg, gateway: cfg.CIDR.Masked().Addr().Next(), host: host, busy: map[string]*turn{}}
	if err := n.open(); err != nil {
		n.Close()
		return nil, fmt.Errorf("pod network %s (%s): %w", cfg.Bridge, cfg.CIDR, err)
	}
	return n, nil
}

// Remove removes whatever there is of a network, as Destroy does, without making it true first. It
// succeeds when there is nothing.
func Remove(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	host, err := netns.Get()
	if err != nil {
		return fmt.Errorf("pod network: network namespace: %w", err)
	}
	n := &Network{cfg: cfg, host: host}
	if n.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		n.Close()
		return fmt.Errorf("pod network: netlink: %w", err)
	}
	return n.Destroy()
}

func (c Config) check() error {
	switch {
	case c.Bridge == "" || len(c.Bridge) >= unix.IFNAMSIZ:
		return fmt.Errorf("pod network: Bridge %q: a link name has 1 to %d bytes", c.Bridge, unix.IFNAMSIZ-1)
	case !c.CIDR.IsValid() || !c.CIDR.Addr().Is4() || c.CIDR.Bits() > 30:
		return fmt.Errorf("pod network: CIDR %s: give an IPv4 range of at least 4 addresses, such as 10.244.0.0/24", c.CIDR)
	case !c.ClusterCIDR.IsValid() || !c.ClusterCIDR.Overlaps(c.CIDR) || c.ClusterCIDR.Bits() > c.CIDR.Bits():
		return fmt.Errorf("pod network: ClusterCIDR %s: it must contain the node's range %s", c.ClusterCIDR, c.CIDR)
	case c.IPv6 != Second{}:
		if err := c.IPv6.check(c.CIDR); err != nil {
			return fmt.Errorf("pod network: %w", err)
		}
	}
	switch {
	case c.StateDir == "":
		return errors.New("pod network: StateDir: name a directory for the leases")
	case c.NFTable == "":
		return errors.New("pod network: NFTable: name an nftables table")
	}
	return nil
}

func (n *Network) open() error {
	var err error
	if n.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if n.leases, err = openLeases(n.cfg.StateDir, n.cfg.CIDR); err != nil {
		return err
	}
	if n.ports, err = openPorts(n.cfg.StateDir); err != nil {
		return err
	}
	if err := n.ensureBridge(); err != nil {
		return err
	}
	if n.dual() {
		if err := n.onHost(n.ensureSecond); err != nil {
			return err
		}
	}
	holder := setting.Holder{Name: n.cfg.NFTable, Home: n.cfg.StateDir}
	if err := n.settings().Hold(holder, setting.Forwarding, setting.NoRedirects); err != nil {
		return err
	}
	if n.dual() {
		if err := n.settings6().Hold(holder, append(n.advertised(), setting.Forwarding6, setting.Refusals6)...); err != nil {
			return err
		}
	}
	if err := errors.Join(n.onHost(n.openTables), n.openForward()); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return n.onHost(n.openBridge)
}

// Close lets go of the handles and leaves the network as it is.
func (n *Network) Close() {
	n.keeping.close()
	if n.links != nil {
		n.links.Close()
	}
	if n.host.IsOpen() {
		n.host.Close()
	}
}

// Gateway is the bridge's address: the node as its pods see it.
func (n *Network) Gateway() netip.Addr { return n.gateway }

// Sandboxes returns the sandboxes that hold a lease, so that the runtime can detach at start-up
// those it no longer knows.
func (n *Network) Sandboxes() []string { return n.leases.holders() }

// Attach gives the network namespace at netnsPath an eth0 with an address, a default route and
// loopback. A sandbox that is attached already gets the same answer again; one whose link was
// lost gets its old address back.
func (n *Network) Attach(ctx context.Context, netnsPath, sandboxID string) (Attachment, error) {
	if sandboxID == "" {
		return Attachment{}, errors.New("attach pod: empty sandbox id")
	}
	defer n.lock(sandboxID)()
	if err := ctx.Err(); err != nil {
		return Attachment{}, err
	}
	n.placing.RLock()
	defer n.placing.RUnlock()
	ip, held, err := n.leases.acquire(sandboxID)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s: %w", sandboxID, err)
	}
	at := Attachment{Interface: podInterface, IP: ip, Gateway: n.gateway, MAC: macOf(ip), MTU: n.mtu}
	if n.dual() {
		at.IP6, at.Gateway6 = n.cfg.second(ip), n.cfg.IPv6.gateway()
	}
	if err := n.wire(netnsPath, n.vethName(sandboxID), at); err != nil {
		err = errors.Join(err, n.unplug(n.vethName(sandboxID)), n.disown(n.vethName(sandboxID), ip))
		if !held {
			err = errors.Join(err, n.leases.release(sandboxID))
		}
		return Attachment{}, fmt.Errorf("attach pod %s: %w", sandboxID, err)
	}
	return at, nil
}

// Detach removes a sandbox's link, takes back its published ports, has the kernel forget its connections and frees its address. It
// succeeds when there is nothing left to do, and does not need the namespace.
func (n *Network) Detach(sandboxID string) error {
	defer n.lock(sandboxID)()
	n.placing.RLock()
	defer n.placing.RUnlock()
	if err := n.unplug(n.vethName(sandboxID)); err != nil {
		return fmt.Errorf("detach pod %s: %w", sandboxID, err)
	}
	if err := n.publish(sandboxID, nil); err != nil {
		return fmt.Errorf("detach pod %s: take back its ports: %w", sandboxID, err)
	}
	if ip, ok := n.leases.of(sandboxID); ok {
		if err := errors.Join(n.disown(n.vethName(sandboxID), ip), n.forget(ip), n.forgetSecond(ip)); err != nil {
			return fmt.Errorf("detach pod %s: %w", sandboxID, err)
		}
	}
	if err := n.leases.release(sandboxID); err != nil {
		return fmt.Errorf("detach pod %s: %w", sandboxID, err)
	}
	return nil
}

// Destroy removes the bridge, every veth on it, the rules, the kernel's memory of the pods'
// connections and the leases, puts the machine's settings back unless another network needs them,
// and closes the network.
func (n *Network) Destroy() error {
	defer n.Close()
	err := errors.Join(n.removeLinks(), n.removeTables(), n.closeForward(), n.forgetConnections(), n.onHost(n.releaseSettings),
		filetree.Remove(leasesDir(n.cfg.StateDir)), filetree.Remove(portsDir(n.cfg.StateDir)))
	if err != nil {
		return fmt.Errorf("destroy pod network %s: %w", n.cfg.Bridge, err)
	}
	return nil
}

func (n *Network) settings() setting.Book {
	if n.cfg.SettingsDir != "" {
		return setting.Book{Dir: n.cfg.SettingsDir}
	}
	return setting.Book{Dir: setting.DefaultDir}
}

// settings6 are those of IPv6, which networks of one family do not hold.
func (n *Network) settings6() setting.Book { return setting.Book{Dir: n.settings().Dir + "6"} }

func (n *Network) releaseSettings() error {
	err := n.settings().Release(n.cfg.NFTable)
	if n.dual() {
		err = errors.Join(err, n.settings6().Release(n.cfg.NFTable))
	}
	return err
}

// onHost runs f on a thread that is in the network's own namespace.
func (n *Network) onHost(f func() error) error { return inNamespace(n.host, f) }

func (n *Network) lock(sandboxID string) (unlock func()) {
	n.mu.Lock()
	t := n.busy[sandboxID]
	if t == nil {
		t = new(turn)
		n.busy[sandboxID] = t
	}
	t.users++
	n.mu.Unlock()
	t.Lock()
	return func() {
		t.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(n.busy, sandboxID)
		}
	}
}

// vethName derives the host end's name, so that Detach and a restart need no record of it.
func (n *Network) vethName(sandboxID string) string {
	sum := sha256.Sum256([]byte(n.cfg.Bridge + "/" + sandboxID))
	return "cv" + hex.EncodeToString(sum[:6])
}

// macOf derives a locally administered address from the IP: when an address is used again, the
// neighbours' caches stay right.
func macOf(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}
