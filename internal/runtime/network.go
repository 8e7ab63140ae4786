package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	netpod "coracle/internal/network/pod"
)

// errNetworkNotReady is what a pod with its own network gets before the agent
// has told the node's pod range.
var errNetworkNotReady = errors.New("network not ready: the node has no pod CIDR yet (it comes with UpdateRuntimeConfig)")

// network is the node's pod network, which opens when its range is known.
type network struct {
	cfg  Config
	path string

	mu   sync.Mutex
	open *netpod.Network
	networkState
	err error
}

func (n *network) init(cfg Config) {
	n.cfg = cfg
	n.path = filepath.Join(cfg.StateDir, "network.json")
	n.err = errNetworkNotReady
}

// networkState are the ranges of a node's pods.
type networkState struct {
	CIDR netip.Prefix `json:"podCIDR"`
	// CIDR6, when valid, is that of their IPv6 addresses; First6 says that those come first.
	CIDR6  netip.Prefix `json:"podCIDR6,omitzero"`
	First6 bool         `json:"ipv6First,omitempty"`
}

// parseRanges reads what the agent says: a range, or one of each family with a comma between them.
func parseRanges(text string) (st networkState, err error) {
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

func (st networkState) String() string {
	switch {
	case !st.CIDR6.IsValid():
		return st.CIDR.String()
	case st.First6:
		return st.CIDR6.String() + "," + st.CIDR.String()
	}
	return st.CIDR.String() + "," + st.CIDR6.String()
}

// restore opens the network with the range of the last run, if there was one.
func (n *network) restore() error {
	st, err := n.kept()
	if err != nil || !st.CIDR.IsValid() {
		return err
	}
	// A network that cannot be opened must not keep the runtime from serving what runs.
	_ = n.use(st, false)
	return nil
}

// kept reads the range of the last run; it is not valid when there was none.
func (n *network) kept() (st networkState, err error) {
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

// use opens the network with a range. Changing the range is refused while
// pods have addresses of the old one.
func (n *network) use(cidr networkState, busy bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open != nil && n.networkState == cidr {
		return nil
	}
	if n.open != nil {
		if busy {
			return fmt.Errorf("pod CIDR cannot change from %s to %s while pods use it", n.networkState, cidr)
		}
		if err := n.open.Destroy(); err != nil {
			return fmt.Errorf("give up pod CIDR %s: %w", n.networkState, err)
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
	n.open, n.networkState, n.err = open, cidr, nil
	return nil
}

// Bridges is how the names of all nodes' bridges begin.
const Bridges = "cor-"

// Bridge names the bridge of a runtime's pods, by its ID.
func Bridge(id string) string { return Bridges + id }

func (n *network) config(st networkState) netpod.Config {
	c := netpod.Config{
		Bridge: Bridge(n.cfg.ID), NFTable: "coracle-pod-" + n.cfg.ID, CIDR: st.CIDR, ClusterCIDR: n.cfg.ClusterCIDR, Services: n.cfg.ServiceCIDR,
		MTU: n.cfg.MTU, StateDir: filepath.Join(n.cfg.StateDir, "network"), Log: n.cfg.Logger,
	}
	if st.CIDR6.IsValid() {
		c.IPv6 = netpod.Second{CIDR: st.CIDR6, ClusterCIDR: n.cfg.ClusterCIDR6, Services: n.cfg.ServiceCIDR6}
	}
	return c
}

func (n *network) ready() (*netpod.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open, n.err
}

// attach gives a sandbox its addresses, the first of which others know it by, and publishes its host ports.
func (n *network) attach(ctx context.Context, netns, id string, mappings []*cri.PortMapping) ([]netip.Addr, error) {
	open, err := n.ready()
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
	if n.First6 {
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

// detach does nothing when the network was never opened.
func (n *network) detach(id string) error {
	open, _ := n.ready()
	if open == nil {
		return nil
	}
	return open.Detach(id)
}

// forget detaches every sandbox that is not known.
func (n *network) forget(known func(id string) bool) error {
	open, _ := n.ready()
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

// destroy removes the network, also one that was never opened as a whole.
func (n *network) destroy() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open != nil {
		err := n.open.Destroy()
		n.open, n.err = nil, errNetworkNotReady
		return err
	}
	st, err := n.kept()
	if err != nil || !st.CIDR.IsValid() {
		return err
	}
	return netpod.Remove(n.config(st))
}

func (n *network) close() {
	if open, _ := n.ready(); open != nil {
		open.Close()
	}
}
