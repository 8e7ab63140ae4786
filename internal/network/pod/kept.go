package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
)

// kept is one of the network's tables, which is put back when somebody else changes it.
type kept struct {
	*nft.Owned
	// name is what it is of, for the log.
	name string
	// write writes it anew, whole, in one transaction, while no pod comes or goes.
	write func() error
	// rebuilt counts how often it was put back.
	rebuilt atomic.Int64
}

// keeping is the network's tables, and who looks after them.
type keeping struct {
	// verified is that of family bridge; translated are those of the network's sides, in their order.
	verified   *kept
	translated []*kept
	// placing is held while a pod comes or goes, whose lease and elements differ meanwhile, and by whoever writes the table of
	// verified addresses whole.
	placing  sync.RWMutex
	cancel   context.CancelFunc
	watching sync.WaitGroup
	closed   sync.Once
}

// openTables writes the tables, each in one transaction, and has them put back when somebody else changes them. It is called on a
// thread of the network's namespace.
func (n *Network) openTables() error {
	verified, err := nft.Own(n.verifyTable())
	if err != nil {
		return err
	}
	n.verified = &kept{Owned: verified, name: "verified addresses", write: n.ensureVerify}
	for _, s := range n.sides() {
		// By one line, so that what is written to one table wakes nobody who watches the other.
		o, err := verified.Beside(s.Table)
		if err != nil {
			return err
		}
		k := &kept{Owned: o, name: "translated addresses"}
		k.write = func() error { return n.ensureSide(k.Owned, s) }
		n.translated = append(n.translated, k)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	for _, k := range n.tables() {
		if err := k.write(); err != nil {
			return err
		}
		n.watching.Go(func() { n.putBack(ctx, k) })
	}
	return nil
}

func (k *keeping) tables() []*kept {
	if k.verified == nil {
		return nil
	}
	return append(k.translated[:len(k.translated):len(k.translated)], k.verified)
}

// close lets go of the tables and leaves them as they are.
func (k *keeping) close() {
	k.closed.Do(func() {
		if k.cancel != nil {
			k.cancel()
		}
		k.watching.Wait()
		for _, t := range k.tables() {
			_ = t.Close() // of sockets that nothing is lost with
		}
	})
}

// calm is how long nobody has changed a table when the next change is a new story.
const calm = 10 * time.Second

// putBack writes a table anew when somebody else has changed it: without that of verified addresses pods could send what they like,
// and with a part of it those that are missing there could send nothing; without those of translated ones no answer from outside the
// cluster would find a pod, no published port would lead to one, and the node's loopback addresses would be open to pods.
func (n *Network) putBack(ctx context.Context, k *kept) {
	var pause nft.Pause
	var last time.Time
	k.Follow(ctx, n.cfg.Log, k.name, func(bool) {
		if time.Since(last) > calm {
			pause.Reset()
		}
		for {
			n.cfg.Log.Warn("the table of "+k.name+" was changed by somebody else: writing it anew", "family", familyName(k.Table), "table", k.Table.Name)
			err := k.write()
			last = time.Now()
			if err == nil {
				k.rebuilt.Add(1)
			} else {
				n.cfg.Log.Error("write the table of "+k.name+"; trying again", "family", familyName(k.Table), "err", err, "in", pause.Next())
			}
			if !pause.Wait(ctx) || err == nil {
				return
			}
		}
	})
}

// familyName is what nft(8) calls a table's family.
func familyName(t nft.Table) string {
	switch t.Family {
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return "ip"
}

// removeTables removes the tables, and no one else's.
func (n *Network) removeTables() error {
	n.keeping.close() // or they would be put back
	all := []nft.Table{n.verifyTable()}
	for _, s := range n.sides() {
		all = append(all, s.Table)
	}
	return n.onHost(func() error {
		var errs []error
		for _, t := range all {
			if err := nft.Remove(t); err != nil {
				errs = append(errs, fmt.Errorf("delete the table of family %s: %w", familyName(t), err))
			}
		}
		return errors.Join(errs...)
	})
}
