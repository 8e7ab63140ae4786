package pod

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

func (n *Network) nft() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(int(n.host)))
}

func (n *Network) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: n.cfg.NFTable}
}

// ensureRules writes the table anew in one transaction: masquerade what goes from this node's
// pods to anywhere but pods and multicast, and lead published ports to their pods.
func (n *Network) ensureRules() error {
	c, err := n.nft()
	if err != nil {
		return err
	}
	table := n.table()
	c.AddTable(table) // so that the delete below finds one
	c.DelTable(table)
	c.AddTable(table)
	n.addPortRules(c, table)
	n.addPortHooks(c, table)
	nat := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: nat, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: hairpinChain}}})
	var exprs []expr.Any
	exprs = append(exprs, matchAddr(sourceOffset, n.cfg.CIDR, expr.CmpOpEq)...)
	exprs = append(exprs, matchAddr(destOffset, n.cfg.ClusterCIDR, expr.CmpOpNeq)...)
	exprs = append(exprs, matchAddr(destOffset, multicast, expr.CmpOpNeq)...)
	exprs = append(exprs, &expr.Counter{}, &expr.Masq{})
	c.AddRule(&nftables.Rule{Table: table, Chain: nat, Exprs: exprs})
	n.addGuard(c, table)
	if err := c.Flush(); err != nil {
		return err
	}
	if err := n.ensureVerify(); err != nil {
		return err
	}
	return n.openForward()
}

// addGuard keeps pods from the node's loopback addresses, which openBridge opens for answers.
func (n *Network) addGuard(c *nftables.Conn, table *nftables.Table) {
	guard := c.AddChain(&nftables.Chain{
		Name: "guard", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	for _, offset := range []uint32{sourceOffset, destOffset} {
		exprs := append(onLink(expr.MetaKeyIIFNAME, n.cfg.Bridge), matchAddr(offset, loopback, expr.CmpOpEq)...)
		c.AddRule(&nftables.Rule{Table: table, Chain: guard, Exprs: append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})})
	}
}

func onLink(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(name)},
	}
}

func (n *Network) removeRules() error {
	c, err := n.nft()
	if err != nil {
		return err
	}
	table := n.table()
	c.AddTable(table)
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete table: %w", err)
	}
	return n.eachDroppingForward(n.deleteMarked)
}

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
	c, err := n.nft()
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
		if f := ch.Table.Family; f != nftables.TableFamilyIPv4 && f != nftables.TableFamilyINet {
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

// Offsets in the IPv4 header (RFC 791).
const (
	sourceOffset = 12
	destOffset   = 16
)

var multicast = netip.MustParsePrefix("224.0.0.0/4")

func matchAddr(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	var mask [4]byte
	binary.BigEndian.PutUint32(mask[:], ^uint32(0)<<(32-p.Bits()))
	addr := p.Masked().Addr().As4()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask[:], Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: addr[:]},
	}
}

func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
