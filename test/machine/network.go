package machine

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func links(add func(name, is string)) error {
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range all {
		a := l.Attrs()
		add(a.Name, fmt.Sprintf("%s %s mtu %d flags %s master %d alias %q promiscuous %d queue %s",
			l.Type(), a.HardwareAddr, a.MTU, a.Flags, a.MasterIndex, a.Alias, a.Promisc, qdiscs(l)))
	}
	return nil
}

func qdiscs(l netlink.Link) string {
	all, err := netlink.QdiscList(l)
	if err != nil {
		return err.Error()
	}
	var kinds []string
	for _, q := range all {
		kinds = append(kinds, q.Type())
	}
	return strings.Join(kinds, ",")
}

func addresses(add func(name, is string)) error {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range all {
		add(fmt.Sprintf("%s on %s", a.IPNet, nameOf(a.LinkIndex)), fmt.Sprintf("scope %d flags %d", a.Scope, a.Flags))
	}
	return nil
}

func nameOf(index int) string {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("link %d", index)
	}
	return l.Attrs().Name
}

func routes(add func(name, is string)) error {
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	all, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, every, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for i := range all {
		r := &all[i]
		to := "default"
		if r.Dst != nil {
			to = r.Dst.String()
		}
		add(fmt.Sprintf("%s in table %d on %s metric %d", to, r.Table, nameOf(r.LinkIndex), r.Priority),
			fmt.Sprintf("via %v from %v type %d scope %d protocol %d hops %v", r.Gw, r.Src, r.Type, r.Scope, r.Protocol, r.MultiPath))
	}
	return nil
}

func rules(add func(name, is string)) error {
	all, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for i := range all {
		add(fmt.Sprintf("family %d priority %d", all[i].Family, all[i].Priority), all[i].String())
	}
	return nil
}

// neighbors are those that somebody set: what the kernel learns, it forgets by itself.
func neighbors(add func(name, is string)) error {
	all, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, n := range all {
		if n.State&netlink.NUD_PERMANENT != 0 {
			add(fmt.Sprintf("%s on %s", n.IP, nameOf(n.LinkIndex)), n.HardwareAddr.String())
		}
	}
	return nil
}

func tables(add func(name, is string)) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	all, err := conn.ListTables()
	if err != nil {
		return err
	}
	for _, t := range all {
		table := fmt.Sprintf("%d %s", t.Family, t.Name)
		add(table, fmt.Sprintf("a table, flags %d", t.Flags))
		sets, err := conn.GetSets(t)
		if err != nil {
			return err
		}
		for _, s := range sets {
			elements, err := conn.GetSetElements(s)
			if err != nil {
				return err
			}
			add(table+" set "+s.Name, fmt.Sprintf("%d elements", len(elements)))
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		held, err := conn.GetRules(c.Table, c)
		if err != nil {
			return err
		}
		add(fmt.Sprintf("%d %s chain %s", c.Table.Family, c.Table.Name, c.Name), fmt.Sprintf("%s, %d rules", c.Type, len(held)))
	}
	return nil
}
