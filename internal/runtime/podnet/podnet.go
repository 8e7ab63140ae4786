// Package podnet is the network of a node's pods as the runtime has it: it opens when the agent tells the node's range,
// and with the range of the last run when the runtime starts again.
//
// It owns that range, on disk too, and which sandbox has which addresses and host ports, by way of package
// network/pod. It refuses to change the range while pods have addresses of the old one, and knows of sandboxes their
// ids alone.
package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	netpod "coracle/internal/network/pod"
)

// errNotReady is what a pod with its own network gets before the agent
// has told the node's pod range.
var errNotReady = errors.New("network not ready: the node has no pod CIDR yet (it comes with UpdateRuntimeConfig)")

// Config says where the network is and what it belongs to.
type Config struct {
	// ID tells this node of this cluster from every other on the machine.
	ID string
	// StateDir is the runtime's directory, in which the range and the leases are kept.
	StateDir string
	// ClusterCIDR and ServiceCIDR are the cluster's ranges of pods and of services, ClusterCIDR6 and ServiceCIDR6 those of
	// IPv6 in a cluster that has both families.
	ClusterCIDR, ServiceCIDR   netip.Prefix
	ClusterCIDR6, ServiceCIDR6 netip.Prefix
	// MTU of the network; 0 takes the machine's.
	MTU    int
	Logger *slog.Logger
}

// Network is the node's pod network, which opens when its range is known.
type Network struct {
	cfg  Config
	path string

	mu     sync.Mutex
	open   *netpod.Network
	ranges Ranges
	err    error
}

// New returns a network that is not open yet.
func New(cfg Config) *Network {
	return &Network{cfg: cfg, path: filepath.Join(cfg.StateDir, "network.json"), err: errNotReady}
}

// Ranges are the ranges of a node's pods.
type Ranges struct {
	CIDR netip.Prefix `json:"podCIDR"`
	// CIDR6, when valid, is that of their IPv6 addresses; First6 says that those come first.
	CIDR6  netip.Prefix `json:"podCIDR6,omitzero"`
	First6 bool         `json:"ipv6First,omitempty"`
}

// ParseRanges reads what the agent says: a range, or one of each family with a comma between them.
func ParseRanges(text string) (st Ranges, err error) {
	for i, part := range strings.Split(text, ",") {
		p, err := netip.ParsePrefix(part)
		switch {
		case err != nil:
			return st, err
		case p.Addr().Is4() && !st.CIDR.IsValid():
			st.CIDR = p.Masked()
		case p.Addr().Is6() && !st.CIDR6.IsValid():
			st.CIDR6, st.First6 = p.Masked(), i == 0
		default:
			return st, errors.New("give at most one range of each family")
		}
	}
	if !st.CIDR.IsValid() {
		return st, errors.New("pods need an IPv4 range, also where they have an IPv6 one")
	}
	return st, nil
}

// String is what ParseRanges reads.
func (st Ranges) String() string {
	switch {
	case !st.CIDR6.IsValid():
		return st.CIDR.String()
	case st.First6:
		return st.CIDR6.String() + "," + st.CIDR.String()
	}
	return st.CIDR.String() + "," + st.CIDR6.String()
}

// Restore opens the network with the range of the last run, if there was one.
func (n *Network) Restore() error {
	st, err := n.kept()
	if err != nil || !st.CIDR.IsValid() {
		return err
	}
	// A network that cannot be opened must not keep the runtime from serving what runs.
	_ = n.Use(st, false)
	return nil
}

// kept reads the range of the last run; it is not valid when there was none.
func (n *Network) kept() (st Ranges, err error) {
	raw, err := os.ReadFile(n.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(raw) == 0 { // empty: cut short, and nothing was made yet
		return st, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &st)
	}
	if err != nil {
		return st, fmt.Errorf("read %s: %w", n.path, err)
	}
	return st, nil
}

// Use opens the network with a range. Changing the range is refused while
// pods have addresses of the old one.
func (n *Network) Use(cidr Ranges, busy bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open != nil && n.ranges == cidr {
		return nil
	}
	if n.open != nil {
		if busy {
			return fmt.Errorf("pod CIDR cannot change from %s to %s while pods use it", n.ranges, cidr)
		}
		if err := n.open.Destroy(); err != nil {
			return fmt.Errorf("give up pod CIDR %s: %w", n.ranges, err)
		}
		n.open = nil
	}
	// Written first: whoever removes a network that was being opened must know of it.
	raw, err := json.Marshal(cidr)
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.path, raw, 0o600); err != nil {
		return fmt.Errorf("keep pod CIDR: %w", err)
	}
	open, err := netpod.Open(n.config(cidr))
	if err != nil {
		n.err = fmt.Errorf("open pod network %s: %w", cidr, err)
		return n.err
	}
	n.open, n.ranges, n.err = open, cidr, nil
	return nil
}

// Bridges is how the names of all nodes' bridges begin.
const Bridges = "cor-"

// Bridge names the bridge of a runtime's pods, by its ID.
func Bridge(id string) string { return Bridges + id }

func (n *Network) config(st Ranges) netpod.Config {
	c := netpod.Config{
		Bridge: Bridge(n.cfg.ID), NFTable: "coracle-pod-" + n.cfg.ID, CIDR: st.CIDR, ClusterCIDR: n.cfg.ClusterCIDR, Services: n.cfg.ServiceCIDR,
		MTU: n.cfg.MTU, StateDir: filepath.Join(n.cfg.StateDir, "network"), Log: n.cfg.Logger,
	}
	if st.CIDR6.IsValid() {
		c.IPv6 = netpod.Second{CIDR: st.CIDR6, ClusterCIDR: n.cfg.ClusterCIDR6, Services: n.cfg.ServiceCIDR6}
	}
	return c
}

func (n *Network) opened() (*netpod.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open, n.err
}

// Ready says why no sandbox can be attached yet; nil says that it can.
func (n *Network) Ready() error {
	_, err := n.opened()
	return err
}

// Attach gives a sandbox its addresses, the first of which others know it by, and publishes its host ports.
func (n *Network) Attach(ctx context.Context, netns, id string, mappings []*cri.PortMapping) ([]netip.Addr, error) {
	open, err := n.opened()
	if err != nil {
		return nil, err
	}
	ports, err := hostPorts(mappings)
	if err != nil {
		return nil, err
	}
	a, err := open.Attach(ctx, netns, id)
	if err != nil {
		return nil, err
	}
	if err := open.Publish(id, ports); err != nil {
		return nil, errors.Join(err, open.Detach(id))
	}
	ips := []netip.Addr{a.IP}
	if a.IP6.IsValid() {
		ips = append(ips, a.IP6)
	}
	if n.ranges.First6 {
		slices.Reverse(ips)
	}
	return ips, nil
}

// hostPorts are the mappings that ask for a port of the host; 0 asks for none.
func hostPorts(mappings []*cri.PortMapping) ([]netpod.Port, error) {
	var out []netpod.Port
	for _, m := range mappings {
		if m.GetHostPort() == 0 {
			continue
		}
		p := netpod.Port{Protocol: m.GetProtocol().String(), HostPort: uint16(m.GetHostPort()), ContainerPort: uint16(m.GetContainerPort())}
		if ip := m.GetHostIp(); ip != "" {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				return nil, fmt.Errorf("port mapping: host IP %q: %w", ip, err)
			}
			if !addr.IsUnspecified() { // 0.0.0.0 is every address
				p.HostIP = addr
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// Detach does nothing when the network was never opened.
func (n *Network) Detach(id string) error {
	open, _ := n.opened()
	if open == nil {
		return nil
	}
	return open.Detach(id)
}

// Forget detaches every sandbox that is not known.
func (n *Network) Forget(known func(id string) bool) error {
	open, _ := n.opened()
	if open == nil {
		return nil
	}
	var errs []error
	for _, id := range open.Sandboxes() {
		if !known(id) {
			errs = append(errs, open.Detach(id))
		}
	}
	return errors.Join(errs...)
}

// Destroy removes the network, also one that was never opened as a whole.
func (n *Network) Destroy() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open != nil {
		err := n.open.Destroy()
		n.open, n.err = nil, errNotReady
		return err
	}
	st, err := n.kept()
	if err != nil || !st.CIDR.IsValid() {
		return err
	}
	return netpod.Remove(n.config(st))
}

// Close ends what watches the network, which stays as it is.
func (n *Network) Close() {
	if open, _ := n.opened(); open != nil {
		open.Close()
	}
}
