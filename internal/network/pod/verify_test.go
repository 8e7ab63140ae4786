package pod

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nft"
	"coracle/internal/network/nstest"
)

// frame is what a pod puts on its link, byte by byte.
type frame struct {
	name     string
	to, from net.HardwareAddr
	kind     uint16
	body     []byte
	// honest says that it is to arrive: what the test sees of others it would see of this.
	honest bool
}

func (f frame) bytes() []byte {
	return slices.Concat(f.to, f.from, binary.BigEndian.AppendUint16(nil, f.kind), f.body)
}

// tagged puts a frame into a virtual network (IEEE 802.1Q) of number 0, which is none.
func (f frame) tagged() frame {
	f.name, f.body, f.kind = f.name+", tagged", slices.Concat([]byte{0, 0}, binary.BigEndian.AppendUint16(nil, f.kind), f.body), 0x8100
	return f
}

func datagram(from, to netip.Addr, mark string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 4242)
	udp = binary.BigEndian.AppendUint16(udp, 4243)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(mark)))
	udp = append(append(udp, 0, 0), mark...)
	if from.Is6() {
		ip := append([]byte{0x60, 0, 0, 0}, 0, byte(len(udp)), unix.IPPROTO_UDP, 64)
		return slices.Concat(ip, from.AsSlice(), to.AsSlice(), udp)
	}
	ip := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 1, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = slices.Concat(ip, from.AsSlice(), to.AsSlice())
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
	return append(ip, udp...)
}

// arp says whose an address is, as an answer to a question or as the question.
func arp(op byte, mac net.HardwareAddr, ip netip.Addr, of netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac, ip.AsSlice(), make([]byte, 6), of.AsSlice())
}

// advert is a neighbour advertisement (RFC 4861) of an address.
func advert(from, to, target netip.Addr, mac net.HardwareAddr) []byte {
	icmp := slices.Concat([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, target.AsSlice(), []byte{2, 1}, mac)
	sum := uint32(len(icmp) + unix.IPPROTO_ICMPV6)
	for _, part := range [][]byte{from.AsSlice(), to.AsSlice(), icmp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum&0xffff+sum>>16))
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255}, from.AsSlice(), to.AsSlice(), icmp)
}

// TestPodsCannotForge: a pod that puts what it likes on its link cannot say that it is another. Forged packets do not reach a
// third pod, no neighbour's address is taken over on the node or in a pod, and what is honest arrives, also by a tag.
func TestPodsCannotForge(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { cannotForge(t, config(t, "forge0", "10.244.7.0/24")) })
	t.Run("both families", func(t *testing.T) {
		needsIPv6(t)
		cannotForge(t, dualConfig(t, "forge0", "10.244.7.0/24", "fd00:244:0:7::/64"))
	})
}

func cannotForge(t *testing.T, cfg Config) {
	nstest.Run(t, func() {
		n := mustOpen(t, cfg)
		defer func() {
			if err := n.Destroy(); err != nil {
				t.Error(err)
			}
		}()
		var paths []string
		var pods []Attachment
		for _, name := range []string{"forger", "neighbour", "victim"} {
			path := sandbox(t, name)
			paths, pods = append(paths, path), append(pods, mustAttach(t, n, path, name))
		}
		forger, neighbour, victim := pods[0], pods[1], pods[2]
		bridge, err := n.links.LinkByName("forge0")
		if err != nil {
			t.Fatal(err)
		}
		node, all := bridge.Attrs().HardwareAddr, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		six := func(a Attachment) netip.Addr { return linkLocal(a.MAC) }
		toAll6, group6 := netip.MustParseAddr("ff02::1"), net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
		honest := frame{"honest", node, forger.MAC, unix.ETH_P_IP, datagram(forger.IP, victim.IP, "honest"), true}
		frames := []frame{
			{name: "another's address", to: node, from: forger.MAC, kind: unix.ETH_P_IP, body: datagram(neighbour.IP, victim.IP, "forged")},
			{name: "the node's address", to: node, from: forger.MAC, kind: unix.ETH_P_IP, body: datagram(n.gateway, victim.IP, "forged")},
			{name: "another's link", to: node, from: neighbour.MAC, kind: unix.ETH_P_IP, body: datagram(forger.IP, victim.IP, "forged")},
			{name: "another's link and address", to: node, from: neighbour.MAC, kind: unix.ETH_P_IP, body: datagram(neighbour.IP, victim.IP, "forged")},
			{name: "past the node", to: victim.MAC, from: forger.MAC, kind: unix.ETH_P_IP, body: datagram(forger.IP, victim.IP, "forged")},
			{name: "to all links", to: all, from: forger.MAC, kind: unix.ETH_P_IP, body: datagram(forger.IP, victim.IP, "forged")},
			{name: "another's IPv6 address", to: group6, from: forger.MAC, kind: unix.ETH_P_IPV6, body: datagram(six(neighbour), toAll6, "forged")},
			{name: "IPv6 to all links", to: group6, from: forger.MAC, kind: unix.ETH_P_IPV6, body: datagram(six(forger), six(victim), "forged")},
			{name: "of no kind", to: all, from: neighbour.MAC, kind: 0x88b5, body: []byte("forged")},
			{name: "to the bridge by its kind", to: net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0xe}, from: neighbour.MAC, kind: 0x88cc, body: []byte("forged")},
			{name: "an answer of whose an address is", to: all, from: forger.MAC, kind: unix.ETH_P_ARP, body: arp(2, forger.MAC, neighbour.IP, victim.IP)},
			{name: "the same to the node", to: node, from: forger.MAC, kind: unix.ETH_P_ARP, body: arp(2, forger.MAC, neighbour.IP, n.gateway)},
			{name: "a question of whose an address is", to: all, from: forger.MAC, kind: unix.ETH_P_ARP, body: arp(1, forger.MAC, n.gateway, victim.IP)},
			{name: "an answer for another link", to: all, from: forger.MAC, kind: unix.ETH_P_ARP, body: arp(2, victim.MAC, forger.IP, victim.IP)},
			{name: "a neighbour's advertisement", to: group6, from: forger.MAC, kind: unix.ETH_P_IPV6, body: advert(six(forger), toAll6, six(neighbour), forger.MAC)},
		}
		if n.dual() {
			frames = append(frames,
				frame{name: "another's IPv6 address by the node", to: node, from: forger.MAC, kind: unix.ETH_P_IPV6, body: datagram(neighbour.IP6, victim.IP6, "forged")},
				frame{name: "the node's IPv6 address", to: node, from: forger.MAC, kind: unix.ETH_P_IPV6, body: datagram(forger.Gateway6, victim.IP6, "forged")},
				frame{name: "IPv6 past the node", to: victim.MAC, from: forger.MAC, kind: unix.ETH_P_IPV6, body: datagram(forger.IP6, victim.IP6, "forged")},
				frame{name: "an advertisement of another's IPv6 address", to: group6, from: forger.MAC, kind: unix.ETH_P_IPV6,
					body: advert(six(forger), toAll6, neighbour.IP6, forger.MAC)})
		}
		for _, f := range slices.Clone(frames) {
			frames = append(frames, f.tagged())
		}
		// The node knows its pods, as after any traffic.
		for i := range paths {
			talk(t, paths[i], netip.AddrPortFrom(pods[i].IP, 80), paths[(i+1)%3])
		}
		seen := listenAt(t, paths[2])
		put(t, paths[0], honest)
		if got := <-seen; got != "honest" {
			t.Fatalf("an honest packet arrives as %q", got)
		}
		if n.dual() {
			put(t, paths[0], frame{"honest", node, forger.MAC, unix.ETH_P_IPV6, datagram(forger.IP6, victim.IP6, "honest"), true})
			if got := <-seen; got != "honest" {
				t.Fatalf("an honest IPv6 packet arrives as %q", got)
			}
		}
		for _, f := range frames {
			put(t, paths[0], f, honest) // what the link brings comes in order
			if got := <-seen; got != "honest" {
				t.Errorf("%s: the victim gets it (%s)", f.name, got)
				if got = <-seen; got != "honest" {
					t.Fatalf("then %q", got)
				}
			}
		}
		tagged := honest.tagged()
		put(t, paths[0], tagged)
		if got := <-seen; got != "honest" {
			t.Errorf("an honest packet with a tag arrives as %q", got)
		}

		t.Log("nobody has taken over an address")
		want := map[string]string{neighbour.IP.String(): neighbour.MAC.String(), victim.IP.String(): victim.MAC.String(), forger.IP.String(): forger.MAC.String()}
		for at, path := range append([]string{""}, paths[2]) {
			for ip, mac := range neighbours(t, path) {
				if want[ip] != "" && want[ip] != mac || at == 1 && ip == n.gateway.String() && mac != node.String() {
					t.Errorf("%s is taken for %s at %q", ip, mac, path)
				}
			}
		}
		places, err := n.links.NeighList(0, unix.AF_BRIDGE)
		if err != nil {
			t.Fatal(err)
		}
		veth, err := n.links.LinkByName(n.vethName("neighbour"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range places {
			if p.HardwareAddr.String() == neighbour.MAC.String() && p.LinkIndex != veth.Attrs().Index {
				t.Errorf("the bridge has the neighbour at link %d, want %d", p.LinkIndex, veth.Attrs().Index)
			}
		}
		for i := range paths {
			talk(t, paths[i], netip.AddrPortFrom(pods[i].IP, 80), paths[(i+1)%3])
		}

		t.Log("what was noted of pods that are gone is gone")
		for _, name := range []string{"forger", "neighbour", "victim"} {
			if err := n.Detach(name); err != nil {
				t.Error(err)
			}
		}
		for _, name := range []string{portsSet, ownSet, own6Set} {
			left := 0
			err := n.verified.Elements(n.verifyTable(), name, func(nft.Element) error {
				left++
				return nil
			})
			if err != nil || left != 0 {
				t.Errorf("set %s has %d elements (%v), want none", name, left, err)
			}
		}
	})
}

// put puts frames on a pod's link.
func put(t *testing.T, path string, frames ...frame) {
	t.Helper()
	at(t, path, func() error {
		link, err := net.InterfaceByName(podInterface)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f.bytes(), 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
		return nil
	})
}

// listenAt tells of what comes by a pod's link and is the test's: "honest", or the kind of what is not.
func listenAt(t *testing.T, path string) <-chan string {
	t.Helper()
	var fd int
	at(t, path, func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		link, err := net.InterfaceByName(podInterface)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		patience := unix.NsecToTimeval(int64(20 * time.Second))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	seen := make(chan string)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	mac := macOf(netip.MustParseAddr("10.244.7.1"))
	go func() {
		defer close(seen)
		defer unix.Close(fd)
		buf := make([]byte, 2048)
		for {
			size, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return
			}
			if link := from.(*unix.SockaddrLinklayer); link.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			var said string
			switch raw := buf[:size]; {
			case slices.Equal(raw[size-min(size, 6):], []byte("honest")):
				said = "honest"
			case slices.Equal(raw[size-min(size, 6):], []byte("forged")),
				raw[12] == 8 && raw[13] == 6 && !slices.Equal(raw[6:12], mac), size > 54 && raw[12] == 0x86 && raw[20] == unix.IPPROTO_ICMPV6 && raw[54] == 136:
				said = fmt.Sprintf("%x", raw)
			default:
				continue // the node's own questions, and what the pods' kernels tell the group
			}
			select {
			case seen <- said:
			case <-over:
				return
			}
		}
	}()
	return seen
}

// neighbours are the hardware addresses that a namespace, or this one, has for its neighbours.
func neighbours(t *testing.T, path string) map[string]string {
	t.Helper()
	out := map[string]string{}
	list := func() error {
		all, err := netlink.NeighList(0, netlink.FAMILY_V4)
		for _, n := range all {
			if n.HardwareAddr != nil {
				out[n.IP.String()] = n.HardwareAddr.String()
			}
		}
		return err
	}
	if path != "" {
		at(t, path, list)
	} else if err := list(); err != nil {
		t.Fatal(err)
	}
	return out
}
