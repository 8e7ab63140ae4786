package pod

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
)

// side is a network as one family has it.
type side struct {
	nft.Table
	pods, cluster, multicast, loopback netip.Prefix
}

func (n *Network) sides() []side {
	all := []side{{
		Table: nft.Table{Family: unix.NFPROTO_IPV4, Name: n.cfg.NFTable}, pods: n.cfg.CIDR, cluster: n.cfg.ClusterCIDR,
		multicast: netip.MustParsePrefix("224.0.0.0/4"), loopback: netip.MustParsePrefix("127.0.0.0/8"),
	}}
	if n.dual() {
		all = append(all, side{
			Table: nft.Table{Family: unix.NFPROTO_IPV6, Name: n.cfg.NFTable}, pods: n.cfg.IPv6.CIDR, cluster: n.cfg.IPv6.ClusterCIDR,
			multicast: netip.MustParsePrefix("ff00::/8"), loopback: netip.PrefixFrom(netip.IPv6Loopback(), 128),
		})
	}
	return all
}

// of is the address on this side of the pod that has a lease.
func (s side) of(c *Config, lease netip.Addr) netip.Addr {
	if s.pods.Addr().Is6() {
		return c.second(lease)
	}
	return lease
}

// ensureSide writes a side's table anew in one transaction: masquerade what goes from this node's
// pods to anywhere but pods and multicast, and lead published ports to their pods.
func (n *Network) ensureSide(o *nft.Owned, s side) error {
	n.ports.mu.Lock()
	defer n.ports.mu.Unlock()
	return n.writeSide(o, s)
}

// writeSide is ensureSide for who holds ports.mu.
func (n *Network) writeSide(o *nft.Owned, s side) error {
	b := nft.NewBatch(s.Table)
	b.AddTable(nil) // so that the delete below finds one
	b.DeleteTable()
	b.AddTable(nil)
	n.addPortRules(b, s)
	addPortHooks(b, s)
	addBase(b, "postrouting", "nat", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	b.AddRule("postrouting", &expr.Verdict{Kind: expr.VerdictJump, Chain: hairpinChain})
	b.AddRule("postrouting", slices.Concat(
		matchAddr(source, s.pods, expr.CmpOpEq), matchAddr(dest, s.cluster, expr.CmpOpNeq), matchAddr(dest, s.multicast, expr.CmpOpNeq),
		[]expr.Any{&expr.Counter{}, &expr.Masq{}},
	)...)
	n.addGuard(b, s)
	if err := o.Commit(b); err != nil {
		return fmt.Errorf("translate addresses (family %s): %w", familyName(s.Table), err)
	}
	return nil
}

// addBase adds a chain that the kernel calls.
func addBase(b *nft.Batch, name, kind string, at *nftables.ChainHook, priority *nftables.ChainPriority) {
	b.AddChain(name, &nft.Hook{Kind: kind, Number: uint32(*at), Priority: int32(*priority)})
}

// addGuard keeps pods from the node's loopback addresses, which openBridge opens for answers.
func (n *Network) addGuard(b *nft.Batch, s side) {
	addBase(b, "guard", "filter", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	for _, offset := range []end{source, dest} {
		exprs := append(onLink(expr.MetaKeyIIFNAME, n.cfg.Bridge), matchAddr(offset, s.loopback, expr.CmpOpEq)...)
		b.AddRule("guard", append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})...)
	}
}

func onLink(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(name)},
	}
}

func (n *Network) closeForward() error { return n.eachDroppingForward(n.deleteMarked) }

// openForward lets the bridge's traffic through filter chains of others that drop by default,
// as Docker leaves iptables' FORWARD: an accept in a table of our own could not overrule them.
// Chains of the legacy iptables are out of nftables' sight.
func (n *Network) openForward() error {
	return n.eachDroppingForward(func(c *nftables.Conn, ch *nftables.Chain) error {
		if err := n.deleteMarked(c, ch); err != nil {
			return err
		}
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			c.InsertRule(&nftables.Rule{
				Table: ch.Table, Chain: ch, UserData: n.mark(),
				Exprs: []expr.Any{
					&expr.Meta{Key: key, Register: 1},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(n.cfg.Bridge)},
					&expr.Counter{},
					&expr.Verdict{Kind: expr.VerdictAccept},
				},
			})
		}
		return nil
	})
}

// eachDroppingForward calls do for every forward chain whose policy is to drop, and commits.
func (n *Network) eachDroppingForward(do func(*nftables.Conn, *nftables.Chain) error) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(n.host)))
	if err != nil {
		return err
	}
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Type != nftables.ChainTypeFilter ||
			ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		if f := ch.Table.Family; f != nftables.TableFamilyIPv4 && f != nftables.TableFamilyINet && (f != nftables.TableFamilyIPv6 || !n.dual()) {
			continue
		}
		if err := do(c, ch); err != nil {
			return fmt.Errorf("chain %s %s: %w", ch.Table.Name, ch.Name, err)
		}
	}
	return c.Flush()
}

func (n *Network) deleteMarked(c *nftables.Conn, ch *nftables.Chain) error {
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, r := range rules {
		if bytes.Equal(r.UserData, n.mark()) {
			if err := c.DelRule(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// mark is the comment by which we know our rules in the chains of others.
func (n *Network) mark() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, "coracle "+n.cfg.NFTable)
}

// end is one of the two addresses of a packet.
type end int

const (
	source end = iota
	dest
)

// offset is where it is in the header: of IPv4 (RFC 791) or IPv6 (RFC 8200).
func (e end) offset(of netip.Addr) uint32 {
	if of.Is6() {
		return [...]uint32{8, 24}[e]
	}
	return [...]uint32{12, 16}[e]
}

func matchAddr(e end, p netip.Prefix, op expr.CmpOp) []expr.Any {
	addr := p.Masked().Addr().AsSlice()
	size := len(addr)
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: e.offset(p.Addr()), Len: uint32(size)},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: net.CIDRMask(p.Bits(), 8*size), Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: addr},
	}
}

func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
