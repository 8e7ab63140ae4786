package pod

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
)

// vouching is the line to the table of verified addresses, and the watch for others who change it.
type vouching struct {
	socket *nft.Socket
	watch  *nft.Watch
	// placing is held while a pod comes or goes, whose lease and elements differ meanwhile, and by whoever writes the table whole.
	placing sync.RWMutex
	// rebuilt counts how often the table was put back.
	rebuilt  atomic.Int64
	end      chan struct{}
	watching sync.WaitGroup
	closed   sync.Once
}

func (n *Network) verifyTable() nft.Table {
	return nft.Table{Family: unix.NFPROTO_BRIDGE, Name: n.cfg.NFTable}
}

// openVerify writes the table and has it put back when somebody else changes it. It is called on a thread of the network's
// namespace.
func (n *Network) openVerify() (err error) {
	v := &n.vouching
	if v.socket, err = nft.Open(); err != nil {
		return err
	}
	if v.watch, err = nft.WatchOthers(n.verifyTable(), v.socket); err != nil {
		return err
	}
	if err := n.ensureVerify(); err != nil {
		return err
	}
	v.end = make(chan struct{})
	v.watching.Go(n.watchVerify)
	return nil
}

func (v *vouching) close() {
	v.closed.Do(func() {
		if v.end != nil {
			close(v.end)
		}
		if v.watch != nil {
			_ = v.watch.Close() // of a socket that was only read
		}
		v.watching.Wait()
		if v.socket != nil {
			_ = v.socket.Close()
		}
	})
}

// Pauses between two looks at a table that others change again and again, or that cannot be written, doubling.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
	// calm is how long nobody has changed it when the next change is a new story.
	calm = 10 * time.Second
)

// watchVerify writes the table anew when somebody else has changed it: without it pods could send what they like, and with a
// part of it those that are missing there could send nothing.
func (n *Network) watchVerify() {
	v := &n.vouching
	pause, last := firstPause, time.Time{}
	for {
		if err := v.watch.Wait(); err != nil {
			if !errors.Is(err, os.ErrClosed) {
				n.cfg.Log.Error("who else changes the table of verified addresses is not seen any more", "table", n.cfg.NFTable, "err", err)
			}
			return
		}
		if time.Since(last) > calm {
			pause = firstPause
		}
		for {
			n.cfg.Log.Warn("the table of verified addresses was changed by somebody else: writing it anew", "family", "bridge", "table", n.cfg.NFTable)
			v.placing.Lock()
			err := n.ensureVerify()
			v.placing.Unlock()
			last = time.Now()
			if err == nil {
				v.rebuilt.Add(1)
			} else {
				n.cfg.Log.Error("write the table of verified addresses; trying again", "err", err, "in", pause)
			}
			select {
			case <-v.end:
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, lastPause)
			if err == nil {
				break
			}
		}
	}
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
	if err := n.vouching.socket.Commit(b); err != nil {
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
	if err := n.vouching.socket.Commit(b); err != nil {
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
	if err := n.vouching.socket.Commit(b); err != nil {
		return fmt.Errorf("take the address of %s back from verification: %w", veth, err)
	}
	return nil
}

func (n *Network) removeVerify() error {
	n.vouching.close() // or it would be put back
	if err := n.onHost(func() error { return nft.Remove(n.verifyTable()) }); err != nil {
		return fmt.Errorf("delete the table of family bridge: %w", err)
	}
	return nil
}
