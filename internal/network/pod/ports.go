package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
)

// Port is a port of a pod that is reached at the host's addresses (a container's hostPort).
type Port struct {
	// Protocol is "TCP", "UDP" or "SCTP"; empty means TCP.
	Protocol string `json:"protocol,omitempty"`
	// HostIP limits it to one address of the host; not valid means all but loopback.
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
}

func (p Port) String() string {
	host := "*"
	if p.HostIP.IsValid() {
		host = p.HostIP.String()
	}
	return fmt.Sprintf("%s:%d/%s", host, p.HostPort, p.protocol())
}

func (p Port) protocol() string {
	if p.Protocol == "" {
		return "TCP"
	}
	return strings.ToUpper(p.Protocol)
}

// clashes says whether two ports would take the same packets.
func (p Port) clashes(q Port) bool {
	return p.HostPort == q.HostPort && p.protocol() == q.protocol() &&
		(!p.HostIP.IsValid() || !q.HostIP.IsValid() || p.HostIP == q.HostIP)
}

var protocols = map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}

func (p Port) check(dual bool) error {
	switch {
	case protocols[p.protocol()] == 0:
		return fmt.Errorf("host port %s: protocol %q: give TCP, UDP or SCTP", p, p.Protocol)
	case p.HostPort == 0 || p.ContainerPort == 0:
		return fmt.Errorf("host port %s to %d: a port is 1 to 65535", p, p.ContainerPort)
	case p.HostIP.Is6() && !dual:
		return fmt.Errorf("host port %s: the pod network is IPv4", p)
	}
	return nil
}

// ports remembers what is published, in memory and on disk: one file for each sandbox.
type ports struct {
	dir string

	mu        sync.Mutex
	bySandbox map[string][]Port
}

func portsDir(stateDir string) string { return filepath.Join(stateDir, "ports") }

func openPorts(stateDir string) (*ports, error) {
	p := &ports{dir: portsDir(stateDir), bySandbox: map[string][]Port{}}
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("published ports: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), draftSuffix) {
			continue // a crash before the rename: it was never published
		}
		raw, err := os.ReadFile(filepath.Join(p.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("published ports: %w", err)
		}
		var list []Port
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf("published ports of %s: %w", e.Name(), err)
		}
		p.bySandbox[e.Name()] = list
	}
	return p, nil
}

const draftSuffix = ".draft"

func (p *ports) save(sandbox string, list []Port) error {
	path := filepath.Join(p.dir, sandbox)
	if len(list) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+draftSuffix, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+draftSuffix, path)
}

// Publish makes ports of an attached sandbox reachable at the host's addresses, instead of those
// it published before; Detach takes them back, Open finds them again. It fails when another
// sandbox of this network has one of them. Loopback addresses of the host do not lead to pods.
func (n *Network) Publish(sandboxID string, list []Port) error {
	defer n.lock(sandboxID)()
	if _, ok := n.leases.of(sandboxID); !ok && len(list) > 0 {
		return fmt.Errorf("publish ports of %s: it is not attached", sandboxID)
	}
	for _, p := range list {
		if err := p.check(n.dual()); err != nil {
			return fmt.Errorf("publish ports of %s: %w", sandboxID, err)
		}
	}
	if err := n.publish(sandboxID, list); err != nil {
		return fmt.Errorf("publish ports of %s: %w", sandboxID, err)
	}
	return nil
}

func (n *Network) publish(sandbox string, list []Port) error {
	n.ports.mu.Lock()
	defer n.ports.mu.Unlock()
	had := n.ports.bySandbox[sandbox]
	if len(had) == 0 && len(list) == 0 {
		return nil
	}
	for other, theirs := range n.ports.bySandbox {
		for _, q := range theirs {
			for _, p := range list {
				if other != sandbox && p.clashes(q) {
					return fmt.Errorf("host port %s is taken by sandbox %s", p, other)
				}
			}
		}
	}
	if err := n.ports.save(sandbox, list); err != nil {
		return err
	}
	if len(list) == 0 {
		delete(n.ports.bySandbox, sandbox)
	} else {
		n.ports.bySandbox[sandbox] = list
	}
	for i, s := range n.sides() {
		if err := n.rewritePorts(n.translated[i].Owned, s); err != nil {
			return err
		}
	}
	return nil
}

// rewritePorts writes the chains of published ports anew. Call it with ports.mu held.
func (n *Network) rewritePorts(o *nft.Owned, s side) error {
	b := nft.NewBatch(s.Table)
	n.addPortRules(b, s)
	err := o.Commit(b)
	if errors.Is(err, unix.ENOENT) { // somebody else deleted the table this instant
		return n.writeSide(o, s)
	}
	if err != nil {
		return fmt.Errorf("lead published ports (family %s): %w", familyName(s.Table), err)
	}
	return nil
}

// The chains of published ports: rewritten whole with each change, in one transaction.
const (
	portsChain   = "hostports"
	hairpinChain = "hairpin"
)

// addPortRules writes the rules of all published ports. Call it with ports.mu held.
func (n *Network) addPortRules(b *nft.Batch, on side) {
	for _, chain := range []string{portsChain, hairpinChain} {
		b.AddChain(chain, nil)
		b.EmptyChain(chain)
	}
	sandboxes := make([]string, 0, len(n.ports.bySandbox))
	for s := range n.ports.bySandbox {
		sandboxes = append(sandboxes, s)
	}
	sort.Strings(sandboxes)
	for _, s := range sandboxes {
		lease, _ := n.leases.of(s)
		ip := on.of(&n.cfg, lease)
		if !ip.IsValid() {
			continue
		}
		for _, p := range n.ports.bySandbox[s] {
			if p.HostIP.IsValid() && p.HostIP.Is4() != ip.Is4() {
				continue
			}
			b.AddRule(portsChain, dnatTo(p, ip)...)
		}
		// A pod that reaches itself by the host's port must see another's address than its own.
		self := netip.PrefixFrom(ip, ip.BitLen())
		exprs := append(matchAddr(source, self, expr.CmpOpEq), matchAddr(dest, self, expr.CmpOpEq)...)
		b.AddRule(hairpinChain, append(exprs, &expr.Masq{})...)
	}
}

func dnatTo(p Port, ip netip.Addr) []expr.Any {
	var exprs []expr.Any
	if p.HostIP.IsValid() {
		exprs = matchAddr(dest, netip.PrefixFrom(p.HostIP, p.HostIP.BitLen()), expr.CmpOpEq)
	}
	family := uint32(unix.NFPROTO_IPV4)
	if ip.Is6() {
		family = unix.NFPROTO_IPV6
	}
	return append(exprs,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocols[p.protocol()]}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p.HostPort)},
		&expr.Counter{},
		&expr.Immediate{Register: 1, Data: ip.AsSlice()},
		&expr.Immediate{Register: registerPort, Data: binaryutil.BigEndian.PutUint16(p.ContainerPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: registerPort},
	)
}

// registerPort is the register behind that of an address: each has 16 bytes.
const registerPort = unix.NFT_REG_2

// addPortHooks leads what is meant for the host, from outside, from pods and from itself, to the
// published ports first.
func addPortHooks(b *nft.Batch, s side) {
	for name, at := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
		addBase(b, name, "nat", at, nftables.ChainPriorityNATDest)
		b.AddRule(name, append(matchAddr(dest, s.loopback, expr.CmpOpNeq),
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
			&expr.Verdict{Kind: expr.VerdictJump, Chain: portsChain},
		)...)
	}
}
