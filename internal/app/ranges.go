package app

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"coracle/internal/cluster"
)

// Ranges are those of a cluster's addresses. Each pod has an IPv4 address; in a cluster of two families it has an IPv6 address
// too, and so have the services that ask for one.
type Ranges struct {
	// PodCIDR is divided among the nodes, a /24 each.
	PodCIDR netip.Prefix `json:"podCIDR"`
	// ServiceCIDR is where cluster IPs come from.
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`
	// PodCIDR6 and ServiceCIDR6 are those of IPv6; not valid in a cluster of one family.
	PodCIDR6     netip.Prefix `json:"podCIDR6,omitzero"`
	ServiceCIDR6 netip.Prefix `json:"serviceCIDR6,omitzero"`
	// IPv6First makes IPv6 the first family: that of a pod's podIP, and of services which do not say theirs.
	IPv6First bool `json:"ipv6First,omitempty"`
}

// Dual says that the cluster has two families.
func (r Ranges) Dual() bool { return r.PodCIDR6.IsValid() }

// inOrder returns two ranges by their families' order.
func (r Ranges) inOrder(four, six netip.Prefix) []netip.Prefix {
	switch {
	case !r.Dual():
		return []netip.Prefix{four}
	case r.IPv6First:
		return []netip.Prefix{six, four}
	}
	return []netip.Prefix{four, six}
}

// Pods and Services are the ranges of each, that of the first family first.
func (r Ranges) Pods() []netip.Prefix     { return r.inOrder(r.PodCIDR, r.PodCIDR6) }
func (r Ranges) Services() []netip.Prefix { return r.inOrder(r.ServiceCIDR, r.ServiceCIDR6) }

// all are the cluster's own.
func (r Ranges) all() []netip.Prefix { return append(r.Pods(), r.Services()...) }

// The flags for ranges.
const (
	podsFlag     = "pod-cidr"
	servicesFlag = "service-cidr"
	podsHelp     = "the range of pods' addresses, when the cluster is created; with an IPv6 range behind or before a comma, for two families, the first " +
		"of which is that of podIP (default a free 10.x.0.0/16)"
	servicesHelp = "the range of cluster IPs, likewise (default a free 10.x.0.0/16)"
)

// askedRanges are what the user's flags say, in order; empty for what he leaves to us.
type askedRanges struct{ pods, services []string }

// same refuses ranges that are not those of a cluster that there is.
func (a askedRanges) same(have Ranges) error {
	for _, c := range []struct {
		flag string
		want []string
		have []netip.Prefix
	}{{podsFlag, a.pods, have.Pods()}, {servicesFlag, a.services, have.Services()}} {
		if len(c.want) == 0 {
			continue
		}
		want, err := parseRanges(c.flag, c.want)
		if err != nil {
			return err
		}
		if fmt.Sprint(want) != fmt.Sprint(c.have) {
			return fmt.Errorf("this cluster's --%s is %s, for as long as it lives, and not %s: leave the flag out, or create another cluster with its own --data-dir",
				c.flag, joined(c.have), joined(want))
		}
	}
	return nil
}

func joined(ranges []netip.Prefix) string {
	var out []string
	for _, p := range ranges {
		out = append(out, p.String())
	}
	return strings.Join(out, ",")
}

// parseRanges reads one range, or one of each family.
func parseRanges(flag string, texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			return nil, fmt.Errorf("--%s %q: want a range such as 10.244.0.0/16, or one of each family such as 10.244.0.0/16,fd00:244::/56", flag, text)
		}
		out = append(out, p.Masked())
	}
	four := len(out) > 0 && out[0].Addr().Is4() || len(out) > 1 && out[1].Addr().Is4()
	switch {
	case len(out) > 2 || len(out) == 2 && out[0].Addr().Is4() == out[1].Addr().Is4():
		return nil, fmt.Errorf("--%s %s: want at most one range of each family", flag, strings.Join(texts, ","))
	case len(out) > 0 && !four:
		return nil, fmt.Errorf("--%s %s: pods and services need IPv4 addresses, also where they have IPv6 ones: give an IPv4 range besides, before or behind a comma",
			flag, strings.Join(texts, ","))
	}
	return out, nil
}

// choose completes what was asked for with ranges that nobody has, and refuses what cannot be.
func (a askedRanges) choose(taken []netip.Prefix) (Ranges, error) {
	pods, err := parseRanges(podsFlag, a.pods)
	if err != nil {
		return Ranges{}, err
	}
	services, err := parseRanges(servicesFlag, a.services)
	if err != nil {
		return Ranges{}, err
	}
	if (len(pods) == 2) != (len(services) == 2) {
		return Ranges{}, fmt.Errorf("--%s %s, --%s %s: a cluster of two families has two ranges of each: give both flags one of each family",
			podsFlag, joined(pods), servicesFlag, joined(services))
	}
	var r Ranges
	if len(pods) == 2 {
		if pods[0].Addr().Is4() != services[0].Addr().Is4() {
			return Ranges{}, fmt.Errorf("--%s %s, --%s %s: the first ranges must be of one family: it is the cluster's first", podsFlag, joined(pods), servicesFlag, joined(services))
		}
		r.IPv6First = pods[0].Addr().Is6()
	}
	if err := r.take(podsFlag, pods, &taken, func(p netip.Prefix) *netip.Prefix { return place(p, &r.PodCIDR, &r.PodCIDR6) }); err != nil {
		return Ranges{}, err
	}
	if err := r.take(servicesFlag, services, &taken, func(p netip.Prefix) *netip.Prefix { return place(p, &r.ServiceCIDR, &r.ServiceCIDR6) }); err != nil {
		return Ranges{}, err
	}
	if len(pods) == 0 {
		if r.PodCIDR, err = freeRange("10.%d.0.0/16", 244, taken); err != nil {
			return Ranges{}, fmt.Errorf("pod range: %w", err)
		}
		taken = append(taken, r.PodCIDR)
	}
	if len(services) == 0 {
		if r.ServiceCIDR, err = freeRange("10.%d.0.0/16", 96, taken); err != nil {
			return Ranges{}, fmt.Errorf("range of cluster IPs: %w", err)
		}
	}
	return r, nil
}

func place(p netip.Prefix, four, six *netip.Prefix) *netip.Prefix {
	if p.Addr().Is4() {
		return four
	}
	return six
}

// take notes ranges, unless somebody has addresses of them or they are too small or too wide for what they are for.
func (r *Ranges) take(flag string, ranges []netip.Prefix, taken *[]netip.Prefix, at func(netip.Prefix) *netip.Prefix) error {
	for _, p := range ranges {
		if err := fits(flag, p); err != nil {
			return fmt.Errorf("--%s %s: %w", flag, p, err)
		}
		for _, t := range append([]netip.Prefix{cluster.SimulatedRange, cluster.SimulatedRange6}, *taken...) {
			if t.Bits() > 0 && t.Overlaps(p) {
				return fmt.Errorf("--%s %s: it overlaps %s, of which this machine or the cluster has addresses already: choose another", flag, p, t)
			}
		}
		*at(p) = p
		*taken = append(*taken, p)
	}
	return nil
}

// fits says whether a range has room for what it is for: a /24 of IPv4 for each node, and as many addresses beside it.
func fits(flag string, p netip.Prefix) error {
	bad := []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("::/8"),
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3")}
	for _, b := range bad {
		if b.Overlaps(p) {
			return fmt.Errorf("addresses of %s mean something else", b)
		}
	}
	least, most := 8, 24
	switch {
	case p.Addr().Is6() && flag == podsFlag:
		least, most = 16, 104
	case p.Addr().Is6():
		least, most = 16, 124
	case flag == servicesFlag:
		most = 28
	}
	if p.Bits() < least || p.Bits() > most {
		return fmt.Errorf("want a prefix of /%d to /%d", least, most)
	}
	return nil
}

// hasIPv6 refuses a cluster of two families on a machine that has one.
func hasIPv6() error {
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("--%s: the kernel of this machine has no IPv6: boot it without ipv6.disable=1, or give IPv4 ranges alone", podsFlag)
	case err == nil && strings.TrimSpace(string(off)) == "1":
		return fmt.Errorf("--%s: IPv6 is turned off on this machine: sysctl -w net.ipv6.conf.all.disable_ipv6=0, or give IPv4 ranges alone", podsFlag)
	}
	return nil
}
