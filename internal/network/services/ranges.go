package services

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"

	"coracle/internal/network/proxy"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
)

// knowRanges reads which ranges services have addresses of, besides the configured one. A range is refused whose addresses
// mean something else to this machine: whoever wrote it may not cut the machine off from them. When they have changed the
// table is of another layout, and written anew in one transaction.
func (r *Router) knowRanges() {
	var want []netip.Prefix
	for _, o := range r.cfg.Snapshot.List(resource.ServiceCIDRs, "") {
		c := o.(*networkingv1.ServiceCIDR)
		if !servicerange.Holds(c) {
			continue
		}
		for _, p := range servicerange.Of(c) {
			if proxy.FamilyOf(p.Addr()) == r.wire.family && !contains(r.cfg.Services, p) && !p.Overlaps(r.cfg.Pods) {
				want = append(want, p)
			}
		}
	}
	slices.SortFunc(want, func(a, b netip.Prefix) int {
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	var more []netip.Prefix
	for _, p := range want {
		if !slices.ContainsFunc(more, func(wide netip.Prefix) bool { return contains(wide, p) }) {
			more = append(more, p)
		}
	}
	more, err := r.routeRanges(more)
	if err != nil {
		r.cfg.Log.Warn("the node has no route to all ranges of services; trying again", "err", err)
		time.AfterFunc(routesAgain, r.changes.everything)
	}
	if !slices.Equal(more, r.more) {
		r.table = nil
	}
	r.more = more
}

// routesAgain is how long after routes could not be made they are tried again.
const routesAgain = 5 * time.Second

func contains(wide, narrow netip.Prefix) bool {
	return wide.Bits() <= narrow.Bits() && wide.Contains(narrow.Addr())
}

// ownRoutes marks the routes that are made here, by agents of whatever node (rtnetlink(7): above RTPROT_STATIC, who made them
// defines it; iproute2 names none of this number).
const ownRoutes = 0xac

// routeRanges gives the node a route to each range by the bridge, as the configured one has, so that connecting to an
// address of it comes before the table's rules at all. It leaves out, and returns without, those that the machine, or
// another cluster on it, reaches others by.
func (r *Router) routeRanges(want []netip.Prefix) ([]netip.Prefix, error) {
	bridge, err := r.links.LinkByName(r.cfg.Bridge)
	if err != nil {
		if len(want) == 0 {
			return nil, nil
		}
		return want, fmt.Errorf("link %s: %w", r.cfg.Bridge, err)
	}
	routes, err := r.links.RouteList(nil, r.netlinkFamily())
	if err != nil {
		return want, fmt.Errorf("routes: %w", err)
	}
	var own []netlink.Route
	var use []netip.Prefix
	var left []servicerange.Left
	for _, p := range want {
		if at, is := r.inUse(p, routes); is {
			r.cfg.Log.Warn("services cannot have the addresses of a range: the machine reaches others by them", "range", p.String(), "route", at.String())
			left = append(left, servicerange.Left{Range: p, Route: at})
			continue
		}
		use = append(use, p)
	}
	r.left.Store(&left)
	for i := range routes {
		if routes[i].Protocol == ownRoutes && routes[i].LinkIndex == bridge.Attrs().Index {
			own = append(own, routes[i])
		}
	}
	for _, p := range use {
		err := r.links.RouteReplace(&netlink.Route{
			LinkIndex: bridge.Attrs().Index, Dst: ipNet(p), Scope: netlink.SCOPE_LINK, Priority: rangeMetric + bridge.Attrs().Index, Protocol: ownRoutes,
		})
		if err != nil {
			return use, fmt.Errorf("route to %s: %w", p, err)
		}
	}
	for i := range own {
		if p, ok := prefixOf(own[i].Dst); ok && !slices.Contains(use, p) {
			if err := r.links.RouteDel(&own[i]); err != nil {
				return use, fmt.Errorf("route to %s: %w", p, err)
			}
		}
	}
	return use, nil
}

// netlinkFamily is that of the addresses which are led, as netlink has it.
func (r *Router) netlinkFamily() int {
	if r.wire.family == proxy.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// LeftAlone are the ranges of services that the node leaves alone, as it last looked.
func (r *Router) LeftAlone() []servicerange.Left {
	if left := r.left.Load(); left != nil {
		return *left
	}
	return nil
}

// rangeMetric is worse than any that others give a route.
const rangeMetric = 1 << 30

// inUse says whether a range overlaps with what a route leads to that is neither the default one nor an agent's, nor that
// to the configured range.
func (r *Router) inUse(p netip.Prefix, routes []netlink.Route) (netip.Prefix, bool) {
	for i := range routes {
		to, ok := prefixOf(routes[i].Dst)
		if ok && to.Bits() > 0 && to.Overlaps(p) && to != r.cfg.Services.Masked() && routes[i].Protocol != ownRoutes {
			return to, true
		}
	}
	return netip.Prefix{}, false
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits).Masked(), ok
}
