package services

import (
	"context"
	"errors"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/behind"
	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// maxBatch is how many bytes one transaction has at most, but for one service's: while the kernel takes one, nobody else
// can change any table.
const maxBatch = 4 << 20

// carryOut makes the table right for what has changed.
func (r *Router) carryOut(ctx context.Context, w work) error {
	begin := time.Now()
	if w.all {
		r.knowNode()
		r.knowRanges()
		r.book = proxy.NewBook()
	}
	if w.anew && r.table != nil {
		r.cfg.Log.Warn("somebody else changed the table of services: writing it anew", "table", r.cfg.Table)
		r.table = nil
	}
	out := &output{
		router: r, batch: nft.NewBatch(r.cfg.table()), ports: map[proxy.Destination]bool{}, udp: map[proxy.Destination]bool{}, sticky: map[proxy.Destination]bool{},
	}
	if r.table == nil {
		if err := r.begin(out, w.anew); err != nil {
			return err
		}
	}
	if w.all {
		r.lookAtAll(out)
	} else {
		r.claim(w.services, out)
	}
	err := out.finish()
	if at := r.near(); r.cfg.Leads != nil && at.IsValid() { // also after a failure: what of it the kernel has is not known, and no change is told twice
		for d, leads := range out.ports {
			r.cfg.Leads(at, d.Port, d.Protocol, leads)
		}
	}
	if err != nil {
		return err
	}
	// What strayed under an earlier agent may stray still: it may have been killed before it saw to that.
	if err := errors.Join(r.endFlows(out.udp, w.all), r.forgetClients(out.sticky, w.all)); err != nil {
		return err
	}
	r.written.Add(int64(out.elements))
	if w.anew {
		r.rebuilt.Add(1)
	}
	if w.all {
		r.cfg.Log.Info("services lead to their endpoints", "destinations", r.table.Len(), "elements", out.elements, "took", time.Since(begin))
	}
	return nil
}

// commit writes a transaction.
func (r *Router) commit(b *nft.Batch) error {
	if err := r.socket.Commit(b); err != nil {
		return err
	}
	if r.wrote != nil {
		r.wrote()
	}
	return nil
}

// knowNode reads what the snapshot says of this node. Until it has its range there is no pod that could reach itself.
func (r *Router) knowNode() {
	n := proxy.Node{Name: r.cfg.Node, Family: r.wire.family}
	if obj, ok := r.cfg.Snapshot.Get(resource.Nodes, "", r.cfg.Node); ok {
		node := obj.(*corev1.Node)
		n.Zone = node.Labels[corev1.LabelTopologyZone]
		for _, text := range podRanges(node) {
			if p, err := netip.ParsePrefix(text); err == nil && proxy.FamilyOf(p.Addr()) == n.Family {
				n.Pods = p.Masked()
			}
		}
	}
	if at, ok := n.Family.Address(r.cfg.API.Addr()); ok {
		n.API = proxy.Endpoint{Address: at, Port: r.cfg.API.Port()}
	}
	if n.Pods != r.node.Pods {
		r.table = nil // which pods may reach themselves is reckoned by it
	}
	r.node = n
}

// podRanges are those of a node's pods, of whatever family.
func podRanges(n *corev1.Node) []string {
	if len(n.Spec.PodCIDRs) == 0 {
		return []string{n.Spec.PodCIDR}
	}
	return n.Spec.PodCIDRs
}

// names is the address at which the node answers for names: the first of its pods' range. It is not valid while the node has none.
func (r *Router) names() netip.Addr {
	if !r.node.Pods.IsValid() {
		return netip.Addr{}
	}
	return r.node.Pods.Addr().Next()
}

// near is an address of the node at which node ports lead from the node itself: not ::1 (leaveLoopback).
func (r *Router) near() netip.Addr {
	if r.wire.family == proxy.IPv4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return r.names()
}

// begin finds out what is in the table, or has it written anew, in the batch that is to come.
func (r *Router) begin(out *output, anew bool) error {
	note, there, err := r.socket.Note(r.cfg.table())
	if err != nil {
		return err
	}
	if there && !anew && string(note) == string(r.note()) {
		loaded, err := r.load(out)
		if err == nil {
			r.table = loaded
			return nil
		}
		r.cfg.Log.Warn("the table of services is not as an agent leaves it: writing it anew", "table", r.cfg.Table, "err", err)
		out.batch = nft.NewBatch(r.cfg.table())
	}
	if there {
		out.batch.DeleteTable()
		out.whole = true // what is led now goes on being led until all of it is there again
	}
	r.build(out.batch)
	r.table = proxy.NewTable(r.wire.family, r.node.Pods)
	return nil
}

func (r *Router) load(out *output) (*proxy.Table, error) {
	const attempts = 5
	for i := range attempts {
		loader := proxy.NewLoader(r.wire.family, r.node.Pods)
		err := r.loadSets(loader)
		if errors.Is(err, nft.ErrChanged) && i < attempts-1 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return loader.Table(out)
	}
	return nil, nft.ErrChanged
}

func (r *Router) loadSets(loader *proxy.Loader) error {
	for _, set := range proxy.Loaded {
		err := r.socket.Elements(r.cfg.table(), string(set), func(e nft.Element) error {
			return loader.Element(set, e.Key, e.End, e.Data, e.Goto)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lookAtAll makes every service right, and removes what none has.
func (r *Router) lookAtAll(out *output) {
	stale := map[proxy.Destination]bool{}
	for _, d := range r.table.Destinations() {
		stale[d] = true
	}
	var keys []object.Key
	for _, o := range r.cfg.Snapshot.List(resource.Services, "") {
		keys = append(keys, object.KeyOf(o))
	}
	out.seen = stale
	r.claim(keys, out)
	out.seen = nil
	for d := range stale {
		out.apply(proxy.Change{Destination: d})
	}
}

// claim has services claim what they want, and those that get what others give up with them.
func (r *Router) claim(keys []object.Key, out *output) {
	for len(keys) > 0 {
		key := keys[0]
		keys = keys[1:]
		wants, who := r.wants(key)
		changed, again := r.book.Claim(who, wants)
		for _, c := range changed {
			out.apply(c)
		}
		for _, c := range again {
			keys = append(keys, object.Key{Namespace: c.Namespace, Name: c.Name})
		}
	}
}

func (r *Router) wants(key object.Key) ([]proxy.Frontend, proxy.Claimant) {
	who := proxy.Claimant{Namespace: key.Namespace, Name: key.Name}
	obj, ok := r.cfg.Snapshot.Get(resource.Services, key.Namespace, key.Name)
	if !ok {
		return nil, who
	}
	service := obj.(*corev1.Service)
	who.Created = service.CreationTimestamp.Unix()
	return proxy.Routes(service, behind.Slices(r.cfg.Snapshot, key), r.node), who
}

// output writes what is emitted into transactions, and commits them as they become full.
type output struct {
	router *Router
	batch  *nft.Batch
	// whole: one transaction for all, however large.
	whole    bool
	elements int
	err      error
	// seen, when set, loses the destinations that a change is about.
	seen map[proxy.Destination]bool
	// ports are the node ports that a change was about, and whether they lead to an endpoint now.
	ports map[proxy.Destination]bool
	// udp and sticky are the destinations from which clients may have strayed.
	udp, sticky map[proxy.Destination]bool
}

func (o *output) apply(c proxy.Change) {
	if o.err != nil {
		return
	}
	if c.Route != nil {
		delete(o.seen, c.Destination)
	}
	if c.Address == (proxy.Address{}) && !c.Outside {
		o.ports[c.Destination] = c.Route != nil && len(c.Route.Endpoints) > 0
	}
	if o.router.table.Apply(c, o) {
		if c.Protocol == proxy.UDP {
			o.udp[c.Destination] = true
		}
		if c.Route != nil && c.Route.Sticky > 0 {
			o.sticky[c.Destination] = true
		}
	}
	if o.batch.Len() > o.router.room && !o.whole {
		o.commit()
	}
}

func (o *output) commit() {
	o.router.table.Settle(o)
	o.err = o.router.commit(o.batch)
	o.batch = nft.NewBatch(o.router.cfg.table())
}

func (o *output) finish() error {
	if o.err == nil {
		o.commit()
	}
	return o.err
}

// Element implements proxy.Emitter.
func (o *output) Element(op proxy.Op) {
	o.elements++
	e := nft.Element{Key: op.Key, Data: op.Data, End: op.End}
	if op.Delete {
		o.batch.Delete(string(op.Set), e)
	} else {
		o.batch.Add(string(op.Set), e)
	}
}

// AddClass implements proxy.Emitter.
func (o *output) AddClass(c proxy.Class, n proxy.Number) { o.router.wire.buildClass(o.batch, c, n) }

// DropClass implements proxy.Emitter.
func (o *output) DropClass(c proxy.Class, n proxy.Number) { dropClass(o.batch, c, n) }
