package pod

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"coracle/internal/network/setting"
)

// Second are the ranges of a network's IPv6 addresses. A pod's is as far from the beginning of its range as its IPv4 address
// is of that one: who has the one has the other, and one lease is enough.
type Second struct {
	// CIDR, ClusterCIDR and Services are what those of Config are.
	CIDR, ClusterCIDR, Services netip.Prefix
}

func (s Second) check(first netip.Prefix) error {
	switch {
	case !s.CIDR.IsValid() || !s.CIDR.Addr().Is6() || s.CIDR.Addr().Is4In6() || 128-s.CIDR.Bits() < 32-first.Bits():
		return fmt.Errorf("IPv6 CIDR %s: give an IPv6 range of at least as many addresses as %s has, such as fd00:244::/64", s.CIDR, first)
	case !s.ClusterCIDR.IsValid() || !s.ClusterCIDR.Overlaps(s.CIDR) || s.ClusterCIDR.Bits() > s.CIDR.Bits():
		return fmt.Errorf("IPv6 ClusterCIDR %s: it must contain the node's range %s", s.ClusterCIDR, s.CIDR)
	}
	return nil
}

func (s Second) gateway() netip.Addr { return s.CIDR.Masked().Addr().Next() }

func (n *Network) dual() bool { return n.cfg.IPv6.CIDR.IsValid() }

// second is the IPv6 address of the pod that has an IPv4 address; not valid for one that is not of the range.
func (c *Config) second(ip netip.Addr) netip.Addr {
	if !c.CIDR.Contains(ip) || !c.IPv6.CIDR.IsValid() {
		return netip.Addr{}
	}
	out, from, base := c.IPv6.CIDR.Masked().Addr().As16(), ip.As4(), c.CIDR.Masked().Addr().As4()
	for i := range from {
		out[12+i] |= from[i] ^ base[i]
	}
	return netip.AddrFrom16(out)
}

// Gateway6 is the bridge's IPv6 address, not valid where pods have none.
func (n *Network) Gateway6() netip.Addr {
	if !n.dual() {
		return netip.Addr{}
	}
	return n.cfg.IPv6.gateway()
}

// ensureSecond gives the bridge its IPv6 address, at once: nobody else has it. It is the only one: by one that links give
// themselves the node would tell pods of shorter ways to each other, which there are not (openBridge), and pods could reach
// it by what no rule is about.
func (n *Network) ensureSecond() error {
	for _, s := range [][2]string{{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"addr_gen_mode", strconv.Itoa(noneOfItsOwn)}} {
		if err := set6(n.cfg.Bridge, s[0], s[1]); err != nil {
			return err
		}
	}
	link, err := n.links.LinkByName(n.cfg.Bridge)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := n.refuseOverlap6(link); err != nil {
		return err
	}
	want := ipNet(n.cfg.IPv6.gateway(), n.cfg.IPv6.CIDR.Bits())
	have, err := whole(func() ([]netlink.Addr, error) { return n.links.AddrList(link, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("bridge addresses: %w", err)
	}
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			continue
		}
		if err := n.links.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove stale bridge address %s: %w", a.IPNet, err)
		}
	}
	if err := n.links.AddrAdd(link, &netlink.Addr{IPNet: want, Flags: unix.IFA_F_NODAD}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("bridge address %s: %w", want, err)
	}
	services := n.cfg.IPv6.Services
	if !services.IsValid() {
		return nil
	}
	route := &netlink.Route{
		LinkIndex: n.bridge, Dst: ipNet(services.Masked().Addr(), services.Bits()), Src: n.cfg.IPv6.gateway().AsSlice(), Priority: n.metric(),
	}
	if err := n.links.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("route for services %s: %w", services, err)
	}
	return nil
}

func (n *Network) refuseOverlap6(bridge netlink.Link) error {
	addrs, err := whole(func() ([]netlink.Addr, error) { return n.links.AddrList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if ok && a.LinkIndex != bridge.Attrs().Index && ones > 0 && netip.PrefixFrom(ip, ones).Overlaps(n.cfg.IPv6.CIDR) {
			return fmt.Errorf("the range %s overlaps %s of another link: choose another pod range", n.cfg.IPv6.CIDR, a.IPNet)
		}
	}
	return nil
}

// noneOfItsOwn keeps a link from giving itself an address (linux/if_link.h, IN6_ADDR_GEN_MODE_NONE).
const noneOfItsOwn = 1

func set6(link, name, value string) error {
	path := filepath.Join("/proc/sys/net/ipv6/conf", link, name)
	err := os.WriteFile(path, []byte(value), 0o644)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing; boot it with IPv6 (without ipv6.disable=1), or create the cluster with IPv4 ranges alone", ErrNoIPv6, path)
	}
	if err != nil {
		return fmt.Errorf("setting of link %s: %w", link, err)
	}
	return nil
}

// ErrNoIPv6: the machine cannot have IPv6 addresses.
var ErrNoIPv6 = errors.New("the kernel has no IPv6")

// advertised has the links that take what routers advertise go on with it when the machine passes packets on: such machines
// take it from nobody unless they are told so (ip-sysctl.html, accept_ra), and lose the default route that they have by it.
// Ports of bridges are none of those.
func (n *Network) advertised() []setting.Setting {
	names := []string{"default"}
	links, _ := whole(n.links.LinkList) // what was listed counts
	for _, l := range links {
		if l.Attrs().MasterIndex == 0 && l.Attrs().Flags&net.FlagLoopback == 0 {
			names = append(names, l.Attrs().Name)
		}
	}
	var out []setting.Setting
	for _, name := range slices.Compact(names) {
		path := filepath.Join("net/ipv6/conf", name, "accept_ra")
		if raw, err := os.ReadFile(filepath.Join("/proc/sys", path)); err == nil && strings.HasPrefix(string(raw), "1") {
			out = append(out, setting.Setting{Path: path, Value: "2"})
		}
	}
	return out
}

// configureSecond gives a pod its IPv6 address and routes, at once. It has no other address, such as one that all links give
// themselves: by those pods would reach each other past the node. It believes nobody who says that he is a router.
func (n *Network) configureSecond(ns netns.NsHandle, inside *netlink.Handle, eth netlink.Link, at Attachment) error {
	if err := inNamespace(ns, func() error {
		for _, s := range [][2]string{{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"accept_redirects", "0"}, {"addr_gen_mode", strconv.Itoa(noneOfItsOwn)}} {
			if err := set6(podInterface, s[0], s[1]); err != nil {
				return err
			}
		}
		return set6("lo", "disable_ipv6", "0")
	}); err != nil {
		return err
	}
	have, err := whole(func() ([]netlink.Addr, error) { return inside.AddrList(eth, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", podInterface, err)
	}
	for _, a := range have {
		if a.IP.IsLinkLocalUnicast() {
			if err := inside.AddrDel(eth, &a); err != nil {
				return fmt.Errorf("remove %s of %s: %w", a.IPNet, podInterface, err)
			}
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(at.IP6, 128), Flags: unix.IFA_F_NODAD}
	if err := inside.AddrAdd(eth, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %s: %w", addr.IPNet, err)
	}
	// The gateway is where it always is: a pod without an address of its link's own cannot ask.
	neighbour := &netlink.Neigh{
		LinkIndex: eth.Attrs().Index, Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT, IP: at.Gateway6.AsSlice(), HardwareAddr: macOf(at.Gateway),
	}
	if err := inside.NeighSet(neighbour); err != nil {
		return fmt.Errorf("neighbour %s: %w", at.Gateway6, err)
	}
	index := eth.Attrs().Index
	for _, r := range []*netlink.Route{
		{LinkIndex: index, Dst: ipNet(at.Gateway6, 128), Src: at.IP6.AsSlice()},
		{LinkIndex: index, Gw: at.Gateway6.AsSlice()},
	} {
		if err := inside.RouteAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route by %s: %w", at.Gateway6, err)
		}
	}
	return nil
}

// knowSecond tells the node where a pod is, so that nobody need ask the pods.
func (n *Network) knowSecond(at Attachment) error {
	err := n.links.NeighSet(&netlink.Neigh{
		LinkIndex: n.bridge, Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT, IP: at.IP6.AsSlice(), HardwareAddr: at.MAC,
	})
	if err != nil {
		return fmt.Errorf("neighbour %s: %w", at.IP6, err)
	}
	return nil
}

// forgetSecond forgets what the kernel knows of the IPv6 address of the pod that has an IPv4 address.
func (n *Network) forgetSecond(ip netip.Addr) error {
	second := n.cfg.second(ip)
	if !second.IsValid() {
		return nil
	}
	err := n.links.NeighDel(&netlink.Neigh{LinkIndex: n.bridge, Family: netlink.FAMILY_V6, IP: second.AsSlice()})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("neighbour %s: %w", second, err)
	}
	return errors.Join(err, n.forget(second))
}

// inNamespace runs f on a thread that is in a network namespace.
func inNamespace(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("join the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
