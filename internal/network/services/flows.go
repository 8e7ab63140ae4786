package services

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"coracle/internal/network/conntrack"
	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
)

// A connection is led once, by its first packet: the kernel remembers where to (conntrack). That is right for streams, which
// end by themselves; a client's datagrams would go on to an endpoint that is gone for as long as it sends any.

// flows matches the UDP connections whose endpoint is none any more.
type flows struct {
	table *proxy.Table
	// of are the destinations it looks at; all says that it looks at every one.
	of  map[proxy.Destination]bool
	all bool
	// local are the node's addresses, pods those of all pods and own those of the node's.
	local     map[proxy.Address]bool
	pods, own netip.Prefix
	family    proxy.Family
}

// ends says whether a connection is to be forgotten.
func (f flows) ends(flow *conntrack.Flow) bool {
	if flow.Protocol != proxy.UDP {
		return false
	}
	sent, ok1 := endpointAt(f.family, flow.Sent.To)
	led, ok2 := endpointAt(f.family, flow.Answered.From)
	if !ok1 || !ok2 {
		return false
	}
	if f.all {
		return f.mine(flow.Sent.From.Addr()) && f.strayed(sent, led)
	}
	d := proxy.Destination{Address: sent.Address, Port: sent.Port, Protocol: proxy.UDP}
	if known, _ := f.table.Leads(d, led); !known && !f.of[d] {
		// It may be a node port: of the node's own addresses, whichever of them it was.
		if !f.here(sent.Address) {
			return false
		}
		d.Address = proxy.Address{}
	}
	outside := d
	outside.Outside = true
	if !f.of[d] && !f.of[outside] {
		return false
	}
	known, leads := f.table.Leads(d, led)
	knownOutside, leadsOutside := f.table.Leads(outside, led)
	if !known && !knownOutside {
		return led != sent // it was led by a service that is gone
	}
	return !leads && !leadsOutside
}

// mine says whether a client is led by this node's table: the pods of another node of this machine are not.
func (f flows) mine(client netip.Addr) bool {
	_, ok := f.family.Address(client)
	return ok && (!f.pods.Contains(client) || f.own.Contains(client))
}

// strayed says whether no destination that a packet may have been sent to leads to an endpoint. Where none is known, it was
// one of a service that is gone, if a pod was led to. (Or a pod's host port: that one's next packet is led there again.) What
// leads nowhere here, such as a service of which only another node has endpoints, that node's table may have led.
func (f flows) strayed(sent, led proxy.Endpoint) bool {
	to := f.family.Addr(led.Address)
	service := false
	for _, address := range []proxy.Address{sent.Address, {}} {
		if address == (proxy.Address{}) && !f.here(sent.Address) {
			continue
		}
		for _, outside := range []bool{false, true} {
			d := proxy.Destination{Address: address, Port: sent.Port, Protocol: proxy.UDP, Outside: outside}
			known, leads := f.table.Leads(d, led)
			if leads || f.table.Refuses(d) && f.pods.Contains(to) && !f.own.Contains(to) {
				return false
			}
			service = service || known
		}
	}
	return service || led != sent && f.pods.Contains(to)
}

// here says whether an address is one of the node's, at which node ports are.
func (f flows) here(a proxy.Address) bool {
	return f.local[a] || loopbacks[f.family].Contains(f.family.Addr(a))
}

func endpointAt(f proxy.Family, at netip.AddrPort) (proxy.Endpoint, bool) {
	a, ok := f.Address(at.Addr().Unmap())
	return proxy.Endpoint{Address: a, Port: at.Port()}, ok
}

// among are the connections among which those of destinations are: by their ports, where these are few. The kernel looks
// through its whole table for each question.
func among(f proxy.Family, of map[proxy.Destination]bool, all bool) []conntrack.Among {
	const fewQuestions = 8
	six := f == proxy.IPv6
	ports := map[uint16]bool{}
	for d := range of {
		ports[d.Port] = true
	}
	if all || len(ports) > fewQuestions {
		return []conntrack.Among{{IPv6: six, Protocol: proxy.UDP}}
	}
	var out []conntrack.Among
	for port := range ports {
		out = append(out, conntrack.Among{IPv6: six, Protocol: proxy.UDP, To: port})
	}
	return out
}

// endFlows ends the UDP connections of destinations that have lost an endpoint, or are new, or of all, to whom does not serve
// them. A kernel that cannot be asked keeps them until they time out.
func (r *Router) endFlows(of map[proxy.Destination]bool, all bool) error {
	if len(of) == 0 && !all {
		return nil
	}
	local := map[proxy.Address]bool{}
	addrs, err := r.links.AddrList(nil, r.netlinkFamily())
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("the node's addresses: %w", err)
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		if e, ok := endpointAt(r.wire.family, netip.AddrPortFrom(ip, 0)); ok {
			local[e.Address] = true
		}
	}
	_, _, err = r.connections.Forget(among(r.wire.family, of, all), flows{r.table, of, all, local, r.cfg.Pods, r.node.Pods, r.wire.family}.ends)
	if r.connections.Cannot(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the UDP connections to endpoints that are gone: %w", err)
	}
	return nil
}

// forgetClients has the kernel forget which clients stayed with endpoints that destinations have lost, some or all.
func (r *Router) forgetClients(of map[proxy.Destination]bool, all bool) error {
	if len(of) == 0 && !all {
		return nil
	}
	var gone [][]byte
	err := r.socket.Elements(r.cfg.table(), string(proxy.StickySet), func(e nft.Element) error {
		d, to, err := r.wire.family.ParseSticky(e.Key, e.Data)
		if err != nil {
			return err
		}
		outside := d
		outside.Outside = true
		_, leads := r.table.Leads(d, to)
		_, leadsOutside := r.table.Leads(outside, to)
		if (all || of[d] || of[outside]) && !leads && !leadsOutside {
			gone = append(gone, append([]byte{}, e.Key...))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range gone {
		b := nft.NewBatch(r.cfg.table())
		b.Delete(string(proxy.StickySet), nft.Element{Key: key})
		if err := r.commit(b); err != nil && !errors.Is(err, unix.ENOENT) { // it may have expired meanwhile
			return err
		}
	}
	return nil
}
