package pod

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openBridge has the bridge pass on what pods send each other and services: without telling them of shorter ways, which
// there are not, and which would count against the answers that they are to get (a machine sends each other one few).
//
// It lets the node reach services as its pods do: by a route for their addresses, without which connecting to one fails
// before any rule sees the packet, and by letting answers from pods to 127.0.0.1 in, which the guard (addGuard) keeps
// everything else away from. All of it belongs to the bridge, and goes with it.
func (n *Network) openBridge() error {
	if err := n.setBridge("send_redirects", "0"); err != nil {
		return err
	}
	// What a pod says of itself, that it were a router, is not for the node.
	if err := set6(n.cfg.Bridge, "accept_ra", "0"); err != nil && !errors.Is(err, ErrNoIPv6) {
		return err
	}
	if !n.cfg.Services.IsValid() {
		return nil
	}
	if err := n.setBridge("route_localnet", "1"); err != nil {
		return err
	}
	route := &netlink.Route{
		LinkIndex: n.bridge, Dst: ipNet(n.cfg.Services.Masked().Addr(), n.cfg.Services.Bits()), Src: n.gateway.AsSlice(),
		Scope: netlink.SCOPE_LINK, Priority: n.metric(),
	}
	if err := n.links.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("route for services %s: %w", n.cfg.Services, err)
	}
	return nil
}

func (n *Network) setBridge(setting, value string) error {
	path := filepath.Join("/proc/sys/net/ipv4/conf", n.cfg.Bridge, setting)
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting of the bridge: %w", err)
	}
	return nil
}

// metric tells the routes of several bridges for one range apart, and is worse than any that others give.
func (n *Network) metric() int {
	const worst, spread = 1 << 30, 1 << 20
	h := fnv.New32a()
	h.Write([]byte(n.cfg.Bridge))
	return worst + int(h.Sum32()%spread)
}
