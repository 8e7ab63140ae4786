package pod

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func (n *Network) ensureBridge() error {
	n.mtu = n.cfg.MTU
	if n.mtu == 0 {
		n.mtu = n.defaultMTU()
	}
	if err := n.refuseOverlap(); err != nil {
		return err
	}
	link, err := n.links.LinkByName(n.cfg.Bridge)
	if isMissing(err) {
		attrs := netlink.NewLinkAttrs()
		// A fixed address: a bridge without one takes that of its lowest port, and changes it
		// under the pods' neighbour caches as ports come and go.
		attrs.Name, attrs.MTU, attrs.HardwareAddr = n.cfg.Bridge, n.mtu, macOf(n.gateway)
		if err := n.links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make bridge: %w", err)
		}
		link, err = n.links.LinkByName(n.cfg.Bridge)
	}
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("link %s exists and is a %s, not a bridge", n.cfg.Bridge, link.Type())
	}
	n.bridge = link.Attrs().Index
	if err := n.setBridgeAddress(link); err != nil {
		return err
	}
	if err := n.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("bridge up: %w", err)
	}
	return nil
}

// setBridgeAddress leaves the gateway as the bridge's only IPv4 address.
func (n *Network) setBridgeAddress(link netlink.Link) error {
	want := ipNet(n.gateway, n.cfg.CIDR.Bits())
	have, err := whole(func() ([]netlink.Addr, error) { return n.links.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("bridge addresses: %w", err)
	}
	found := false
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			found = true
			continue
		}
		if err := n.links.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove stale bridge address %s: %w", a.IPNet, err)
		}
	}
	if found {
		return nil
	}
	if err := n.links.AddrAdd(link, &netlink.Addr{IPNet: want}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("bridge address %s: %w", want, err)
	}
	return nil
}

// refuseOverlap fails when another link of the machine holds addresses of this range: routes
// would lead half of the pods astray.
func (n *Network) refuseOverlap() error {
	addrs, err := whole(func() ([]netlink.Addr, error) { return n.links.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		ones, _ := a.Mask.Size()
		if !ok || ones == 0 || !netip.PrefixFrom(ip, ones).Overlaps(n.cfg.CIDR) {
			continue
		}
		link, err := n.links.LinkByIndex(a.LinkIndex)
		if err != nil || link.Attrs().Name == n.cfg.Bridge {
			continue
		}
		return fmt.Errorf("the range overlaps %s of link %s: choose another pod range, or remove the link if it was left behind (ip link delete %s)",
			a.IPNet, link.Attrs().Name, link.Attrs().Name)
	}
	return nil
}

func (n *Network) defaultMTU() int {
	routes, err := whole(func() ([]netlink.Route, error) { return n.links.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return 1500
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := n.links.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().MTU
		}
	}
	return 1500
}

// wire makes the veth pair and configures its inner end; what is there already stays.
func (n *Network) wire(netnsPath, veth string, at Attachment) error {
	ns, err := netns.GetFromPath(netnsPath)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", netnsPath, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink in %s: %w", netnsPath, err)
	}
	defer inside.Close()

	if err := n.vouch(veth, at.IP); err != nil {
		return err
	}
	eth, err := inside.LinkByName(podInterface)
	if isMissing(err) {
		if err := n.plug(ns, veth, at); err != nil {
			return err
		}
		eth, err = inside.LinkByName(podInterface)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", podInterface, err)
	}
	if err := n.configureHostEnd(veth, at.MAC); err != nil {
		return err
	}
	if err := configureInside(inside, eth, at); err != nil || !n.dual() {
		return err
	}
	if err := n.configureSecond(ns, inside, eth, at); err != nil {
		return err
	}
	return n.knowSecond(at)
}

func (n *Network) plug(ns netns.NsHandle, veth string, at Attachment) error {
	// A host end whose other end is elsewhere is what a crash half-way left behind.
	if err := n.unplug(veth); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = veth, n.mtu
	err := n.links.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: podInterface, PeerHardwareAddr: at.MAC, PeerMTU: uint32(n.mtu), PeerNamespace: netlink.NsFd(ns),
	})
	if err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	return nil
}

func (n *Network) configureHostEnd(veth string, mac net.HardwareAddr) error {
	link, err := n.links.LinkByName(veth)
	if err != nil {
		return fmt.Errorf("veth %s: %w", veth, err)
	}
	if link.Attrs().MasterIndex != n.bridge {
		if err := n.links.LinkSetMasterByIndex(link, n.bridge); err != nil {
			return fmt.Errorf("veth %s: join bridge: %w", veth, err)
		}
	}
	if n.dual() { // an end that has no business of its own
		if err := n.links.LinkSetIP6AddrGenMode(link, noneOfItsOwn); err != nil {
			return fmt.Errorf("veth %s: %w", veth, err)
		}
	}
	// Hairpin: a pod reaches itself through a service's address.
	if err := n.links.LinkSetHairpin(link, true); err != nil {
		return fmt.Errorf("veth %s: hairpin: %w", veth, err)
	}
	if err := n.place(link, mac); err != nil {
		return fmt.Errorf("veth %s: %w", veth, err)
	}
	if err := n.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("veth %s: up: %w", veth, err)
	}
	return nil
}

// configureInside gives a pod its address and routes. No other pod is its neighbour: all it sends goes through the node,
// which knows where a service's answer comes from, and what a policy forbids.
func configureInside(inside *netlink.Handle, eth netlink.Link, at Attachment) error {
	addr := &netlink.Addr{IPNet: ipNet(at.IP, at.IP.BitLen())}
	if err := inside.AddrAdd(eth, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %s: %w", addr.IPNet, err)
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return fmt.Errorf("%s up: %w", podInterface, err)
	}
	gateway := &netlink.Route{
		LinkIndex: eth.Attrs().Index, Dst: ipNet(at.Gateway, at.Gateway.BitLen()), Scope: netlink.SCOPE_LINK, Src: at.IP.AsSlice(),
	}
	if err := inside.RouteAdd(gateway); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("route to %s: %w", at.Gateway, err)
	}
	route := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: at.Gateway.AsSlice()}
	if err := inside.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("default route by %s: %w", at.Gateway, err)
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := inside.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}

// unplug deletes a host end, and with it the pair; a missing one is fine.
func (n *Network) unplug(veth string) error {
	link, err := n.links.LinkByName(veth)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("veth %s: %w", veth, err)
	}
	// The namespace may be dying at this moment and take the pair with it.
	if err := n.links.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete veth %s: %w", veth, err)
	}
	return nil
}

// removeLinks deletes the bridge and the links whose master it is.
func (n *Network) removeLinks() error {
	bridge, err := n.links.LinkByName(n.cfg.Bridge)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", n.cfg.Bridge, err)
	}
	links, err := whole(n.links.LinkList)
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	var errs []error
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge.Attrs().Index && l.Type() == "veth" {
			if err := n.links.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("delete %s: %w", l.Attrs().Name, err))
			}
		}
	}
	if err := n.links.LinkDel(bridge); err != nil && !errors.Is(err, unix.ENODEV) {
		errs = append(errs, fmt.Errorf("delete %s: %w", n.cfg.Bridge, err))
	}
	return errors.Join(errs...)
}

func isMissing(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

func ipNet(ip netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(bits, ip.BitLen())}
}
