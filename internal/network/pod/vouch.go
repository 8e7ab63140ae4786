package pod

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
)

func (n *Network) verifyTable() nft.Table {
	return nft.Table{Family: unix.NFPROTO_BRIDGE, Name: n.cfg.NFTable}
}

// verifySets are the table's sets.
func verifySets() []nft.Set {
	link, mac := nftables.TypeIFName.GetNFTMagic(), nftables.TypeEtherAddr.GetNFTMagic()
	return []nft.Set{
		{Name: portsSet, Key: []int{unix.IFNAMSIZ}, KeyType: link},
		{Name: ownSet, Key: []int{unix.IFNAMSIZ, 6, 4}, KeyType: nft.Type(link, mac, nft.TypeAddress)},
		{Name: own6Set, Key: []int{unix.IFNAMSIZ, 6, 16}, KeyType: nft.Type(link, mac, nft.TypeAddress6)},
	}
}

// ensureVerify writes the table anew in one transaction, with the elements of all pods that hold a lease.
func (n *Network) ensureVerify() error {
	n.placing.Lock()
	defer n.placing.Unlock()
	bridge, err := n.links.LinkByIndex(n.bridge)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	b := nft.NewBatch(n.verifyTable())
	b.AddTable(nil) // so that the delete below finds one
	b.DeleteTable()
	b.AddTable(nil)
	for _, set := range verifySets() {
		b.AddSet(set)
	}
	for _, sandbox := range n.leases.holders() {
		if ip, ok := n.leases.of(sandbox); ok {
			n.eachElement(n.vethName(sandbox), ip, b.Add)
		}
	}
	b.AddChain(verifyChain, nil)
	for _, exprs := range verifyRules(bridge.Attrs().HardwareAddr) {
		b.AddRule(verifyChain, exprs...)
	}
	for name, number := range verifyHooks {
		b.AddChain(name, &nft.Hook{Kind: "filter", Number: number, Priority: int32(*nftables.ChainPriorityRaw)})
		b.AddRule(name, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: portsSet},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: verifyChain})
	}
	if err := n.verified.Commit(b); err != nil {
		return fmt.Errorf("verify what pods send (family bridge, CONFIG_NF_TABLES_BRIDGE): %w", err)
	}
	return nil
}

// eachElement calls do for each element that a pod has.
func (n *Network) eachElement(veth string, ip netip.Addr, do func(set string, e nft.Element)) {
	do(portsSet, nft.Element{Key: linkName(veth)})
	mac := append(slices.Clone(macOf(ip)), 0, 0)
	for _, a := range n.own(ip) {
		set := ownSet
		if a.Is6() {
			set = own6Set
		}
		do(set, nft.Element{Key: bytes.Join([][]byte{linkName(veth), mac, a.AsSlice()}, nil)})
	}
}

// vouch says of a link whose it is. It is there before the link is, so that nothing comes by it unseen.
func (n *Network) vouch(veth string, ip netip.Addr) error {
	b := nft.NewBatch(n.verifyTable())
	n.eachElement(veth, ip, b.Add)
	if err := n.verified.Commit(b); err != nil {
		return fmt.Errorf("note the address of %s for verification: %w", veth, err)
	}
	return nil
}

// disown takes back what vouch said, once the link is gone. What is not there need not be taken.
func (n *Network) disown(veth string, ip netip.Addr) error {
	b := nft.NewBatch(n.verifyTable())
	// Added first, so that there is something to delete: an interrupted Detach is done again.
	n.eachElement(veth, ip, b.Add)
	n.eachElement(veth, ip, b.Delete)
	if err := n.verified.Commit(b); err != nil {
		return fmt.Errorf("take the address of %s back from verification: %w", veth, err)
	}
	return nil
}
