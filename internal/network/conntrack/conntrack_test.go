package conntrack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nstest"
)

func remember(t *testing.T, protocol uint8, from, to, led string, port uint16) {
	t.Helper()
	address := func(s string) net.IP { return net.IP(netip.MustParseAddr(s).AsSlice()) }
	family := netlink.InetFamily(unix.AF_INET)
	if netip.MustParseAddr(from).Is6() {
		family = unix.AF_INET6
	}
	err := netlink.ConntrackCreate(netlink.ConntrackTable, family, &netlink.ConntrackFlow{
		FamilyType: uint8(family), TimeOut: 600,
		Forward:   netlink.IPTuple{SrcIP: address(from), DstIP: address(to), SrcPort: 4000, DstPort: port, Protocol: protocol},
		Reverse:   netlink.IPTuple{SrcIP: address(led), DstIP: address(from), SrcPort: port, DstPort: 4000, Protocol: protocol},
		ProtoInfo: protoInfo(protocol),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func protoInfo(protocol uint8) netlink.ProtoInfo {
	if protocol == unix.IPPROTO_TCP {
		return &netlink.ProtoInfoTCP{State: nl.TCP_CONNTRACK_ESTABLISHED}
	}
	return nil
}

// TestForget: what is asked about is forgotten and nothing else, and the kernel tells of little more than that.
func TestForget(t *testing.T) {
	at := netip.MustParseAddr
	all := []Among{{}, {IPv6: true}}
	for name, c := range map[string]struct {
		of         []Among
		goes       func(*Flow) bool
		told, gone int
	}{
		"all":                           {all, nil, 25, 25},
		"of one family":                 {[]Among{{IPv6: true}}, nil, 1, 1},
		"begun by an address":           {With(at("10.0.0.1")), nil, 4, 4},
		"led to an address":             {With(at("10.1.0.9")), nil, 2, 2},
		"of an address of IPv6":         {With(at("fd00::1")), nil, 1, 1},
		"sent to an address, not led":   {With(at("10.96.0.1")), nil, 0, 0},
		"by datagrams":                  {[]Among{{Protocol: unix.IPPROTO_UDP}}, nil, 13, 13},
		"by datagrams to a port":        {[]Among{{Protocol: unix.IPPROTO_UDP, To: 53}}, nil, 3, 3},
		"as whoever asks says":          {[]Among{{Protocol: unix.IPPROTO_UDP, To: 53}}, func(f *Flow) bool { return f.Answered.From.Addr() == at("10.1.0.9") }, 3, 1},
		"which an address is part of":   {all, func(f *Flow) bool { return f.Names(func(a netip.Addr) bool { return a == at("10.96.0.1") }) }, 25, 2},
		"none":                          {With(at("10.7.7.7")), nil, 0, 0},
		"by datagrams to nobody's port": {[]Among{{Protocol: unix.IPPROTO_UDP, To: 54}}, nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func() {
				table, err := Open(netns.None())
				if err != nil {
					t.Fatal(err)
				}
				defer table.Close()
				for i := range 10 {
					remember(t, unix.IPPROTO_TCP, fmt.Sprint("10.2.0.", i+1), "10.1.0.1", "10.1.0.1", 80)
					remember(t, unix.IPPROTO_UDP, fmt.Sprint("10.2.0.", i+1), "10.1.0.1", "10.1.0.1", 80)
				}
				remember(t, unix.IPPROTO_TCP, "10.0.0.1", "10.96.0.1", "10.1.0.9", 80)
				remember(t, unix.IPPROTO_UDP, "10.0.0.1", "10.96.0.1", "10.1.0.9", 53)
				remember(t, unix.IPPROTO_UDP, "10.0.0.1", "10.96.0.2", "10.1.0.8", 53)
				remember(t, unix.IPPROTO_UDP, "10.0.0.1", "10.96.0.3", "10.1.0.7", 53)
				remember(t, unix.IPPROTO_TCP, "fd00::1", "fd00::2", "fd00::2", 80)
				told, gone, err := table.Forget(c.of, c.goes)
				if err != nil || told != c.told || gone != c.gone {
					t.Errorf("told of %d, forgot %d (%v), want %d and %d", told, gone, err, c.told, c.gone)
				}
				left := 0
				for _, a := range all {
					raw, err := table.list(a, false)
					if err != nil {
						t.Fatal(err)
					}
					left += len(raw)
				}
				if left != 25-c.gone {
					t.Errorf("%d are left, want %d", left, 25-c.gone)
				}
			})
		})
	}
}

// TestCannot: a kernel's refusal is told, and known for what it is: EINVAL is the answer of a kernel that has nobody who knows
// of connections, and of one that finds a question wrong.
func TestCannot(t *testing.T) {
	nstest.Run(t, func() {
		table, err := Open(netns.None())
		if err != nil {
			t.Fatal(err)
		}
		for err, want := range map[error]bool{
			unix.EOPNOTSUPP: true, unix.EPROTONOSUPPORT: true, unix.EINVAL: false, fmt.Errorf("ask: %w", unix.EOPNOTSUPP): true, unix.EPERM: false,
			netlink.ErrDumpInterrupted: false, errors.Join(nil, nil): false,
		} {
			if got := table.Cannot(err); got != want {
				t.Errorf("%v: %t, want %t", err, got, want)
			}
		}
		// To whom no kernel listens, as to connections where they are not known.
		table.subsystem = unix.NFNL_SUBSYS_COUNT
		if _, _, err := table.Forget([]Among{{}}, nil); !errors.Is(err, unix.EINVAL) || !table.Cannot(err) {
			t.Errorf("of a kernel without connections: %v, want EINVAL and that it cannot be asked", err)
		}
		table.Close()
		if _, _, err := table.Forget([]Among{{}}, nil); err == nil || table.Cannot(err) || table.Cannot(unix.EINVAL) {
			t.Errorf("by a closed socket: %v, want an error that is no lack of the kernel's", err)
		}
	})
}
