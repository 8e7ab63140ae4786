// Package conntrack has the kernel forget connections: where their packets are led, which it remembers of one that ended in order
// for two minutes, and of one whose end it did not see for as long as five days. Who sends by one that it remembers is led where
// that one was, though nobody is there any more, or another.
//
// It owns the questions and deletions (ctnetlink), by the kernel's own filter where it has one (Linux 5.8), so that little is told and
// nothing copied of a table of hundreds of thousands. It refuses to say which connections are to be forgotten, and to take
// a kernel's refusal for success: whoever asks decides what a kernel that cannot be asked means (Table.Cannot).
package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Flow is a connection as its first packet was sent and as answers come.
type Flow struct {
	Protocol       uint8
	Sent, Answered Ends
}

// Ends are the two ends of a direction. Ports are 0 where the protocol has none.
type Ends struct{ From, To netip.AddrPort }

// Names says whether an address takes part, before or after translation.
func (f *Flow) Names(in func(netip.Addr) bool) bool {
	for _, e := range []Ends{f.Sent, f.Answered} {
		if in(e.From.Addr()) || in(e.To.Addr()) {
			return true
		}
	}
	return false
}

// Side is a direction of a connection.
type Side int

// The directions. A pod's address is the source of one of them: nobody's is translated to a pod's.
const (
	Sent Side = iota
	Answered
)

// Among are the connections that a question is about. What is not set does not matter.
type Among struct {
	// IPv6 asks for connections of that family instead of IPv4.
	IPv6 bool
	// Source is an address from which packets of a side come.
	Side   Side
	Source netip.Addr
	// Protocol and To are of the packets sent: unix.IPPROTO_UDP and its like, and the port they are sent to.
	Protocol uint8
	To       uint16
}

// With are the connections that an address began, and those that were led to it.
func With(ip netip.Addr) []Among {
	six := ip.Is6()
	return []Among{{IPv6: six, Side: Sent, Source: ip}, {IPv6: six, Side: Answered, Source: ip}}
}

func (a *Among) has(f *Flow) bool {
	from := f.Sent.From
	if a.Side == Answered {
		from = f.Answered.From
	}
	return (!a.Source.IsValid() || from.Addr() == a.Source) && (a.Protocol == 0 || a.Protocol == f.Protocol) && (a.To == 0 || a.To == f.Sent.To.Port())
}

// Table is the kernel's memory of a network namespace's connections. It is not safe for concurrent use.
type Table struct {
	sockets map[int]*nl.SocketHandle
	// subsystem is whom questions go to.
	subsystem int
}

// Open opens that of a network namespace; netns.None() is the calling thread's.
func Open(ns netns.NsHandle) (*Table, error) {
	socket, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("ask for connections: %w", err)
	}
	return &Table{map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}, unix.NFNL_SUBSYS_CTNETLINK}, nil
}

// Close lets go of it.
func (t *Table) Close() {
	for _, s := range t.sockets {
		s.Close()
	}
}

// Cannot says that an error of Forget means a kernel that cannot be asked about connections: it has no memory of any, or no way to tell
// of it (CONFIG_NF_CT_NETLINK). EINVAL is what such a kernel answers, and what any answers to a question that it finds
// wrong: which of the two it is shows by a question in which nothing can be wrong.
func (t *Table) Cannot(err error) bool {
	if errors.Is(err, unix.EINVAL) {
		return errors.Is(t.probe(), unix.EINVAL)
	}
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// probe asks how many connections there are.
func (t *Table) probe() error {
	const statistics = 5 // IPCTNL_MSG_CT_GET_STATS
	// With an acknowledgement, or the answer has no end: it is marked as one of several parts.
	_, err := t.request(Among{}, statistics, unix.NLM_F_ACK).Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

// Forget has the kernel forget those of some connections that goes says it of, or all where goes is nil. It returns how many the kernel
// told of, and how many it forgot. The error is the kernel's.
func (t *Table) Forget(of []Among, goes func(*Flow) bool) (told, gone int, err error) {
	var errs []error
	for _, a := range of {
		n, m, err := t.forget(a, goes, true)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			n, m, err = t.forget(a, goes, false) // it cannot filter
		}
		told, gone, errs = told+n, gone+m, append(errs, err)
	}
	return told, gone, errors.Join(errs...)
}

func (t *Table) forget(a Among, goes func(*Flow) bool, filter bool) (told, gone int, err error) {
	raw, err := t.list(a, filter)
	errs := []error{err}
	for _, connection := range raw {
		if len(connection) < nl.SizeofNfgenmsg {
			continue
		}
		told++
		connection = connection[nl.SizeofNfgenmsg:]
		f := flowOf(connection)
		if !a.has(&f) || goes != nil && !goes(&f) {
			continue
		}
		req := t.request(a, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddRawData(connection) // with its number, by which no other is meant
		switch _, err := req.Execute(unix.NETLINK_NETFILTER, 0); {
		case err == nil:
			gone++
		case !errors.Is(err, fs.ErrNotExist): // it has gone by itself
			errs = append(errs, err)
		}
	}
	return told, gone, errors.Join(errs...)
}

// list asks for connections. An answer in the course of which the table changed may lack some, and is asked for again.
func (t *Table) list(a Among, filter bool) (raw [][]byte, err error) {
	const attempts = 5
	for range attempts {
		req := t.request(a, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
		if filter {
			a.filter(req)
		}
		if raw, err = req.Execute(unix.NETLINK_NETFILTER, 0); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return raw, err
}

func (t *Table) request(a Among, kind, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(t.subsystem<<8|kind, flags)
	req.Sockets = t.sockets
	family := uint8(unix.AF_INET)
	if a.IPv6 {
		family = unix.AF_INET6
	}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}

// Attributes by which the kernel filters what it tells (linux/netfilter/nfnetlink_conntrack.h, nf_internals.h).
const (
	filterAttribute = 25 // CTA_FILTER
	filterSent      = 1  // CTA_FILTER_ORIG_FLAGS
	filterAnswered  = 2  // CTA_FILTER_REPLY_FLAGS

	bySource   = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	byProtocol = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM
	byPort     = 1 << 5 // CTA_FILTER_F_CTA_PROTO_DST_PORT
)

// filter has the kernel tell of the connections alone that a question is about.
func (a *Among) filter(req *nl.NetlinkRequest) {
	var flags [2]uint32
	tuples := [2]*nl.RtAttr{nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil), nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_REPLY, nil)}
	// By an IPv6 address the kernel filters the wrong way round: it tells of those that have others (ctnetlink_filter_match_tuple takes
	// an ipv6_addr_cmp of 0 for a difference; seen on 6.18). Those are looked through here.
	if a.Source.Is4() {
		tuples[a.Side].AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(nl.CTA_IP_V4_SRC, a.Source.AsSlice())
		flags[a.Side] |= bySource
	}
	if a.Protocol != 0 {
		proto := tuples[Sent].AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
		proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{a.Protocol})
		flags[Sent] |= byProtocol
		if a.To != 0 {
			proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, a.To))
			flags[Sent] |= byPort
		}
	}
	if flags == [2]uint32{} {
		return
	}
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|filterAttribute, nil)
	for side, kind := range []int{filterSent, filterAnswered} {
		if flags[side] != 0 {
			req.AddData(tuples[side])
		}
		filter.AddRtAttr(kind, binary.NativeEndian.AppendUint32(nil, flags[side]))
	}
	req.AddData(filter)
}

func flowOf(connection []byte) (f Flow) {
	f.Sent, f.Protocol = endsOf(attribute(connection, nl.CTA_TUPLE_ORIG))
	f.Answered, _ = endsOf(attribute(connection, nl.CTA_TUPLE_REPLY))
	return f
}

func endsOf(tuple []byte) (e Ends, protocol uint8) {
	ip, proto := attribute(tuple, nl.CTA_TUPLE_IP), attribute(tuple, nl.CTA_TUPLE_PROTO)
	address := func(kinds ...uint16) netip.Addr {
		for _, kind := range kinds {
			if a, ok := netip.AddrFromSlice(attribute(ip, kind)); ok {
				return a
			}
		}
		return netip.Addr{}
	}
	port := func(kind uint16) uint16 {
		if raw := attribute(proto, kind); len(raw) == 2 {
			return binary.BigEndian.Uint16(raw)
		}
		return 0
	}
	if raw := attribute(proto, nl.CTA_PROTO_NUM); len(raw) == 1 {
		protocol = raw[0]
	}
	e.From = netip.AddrPortFrom(address(nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC), port(nl.CTA_PROTO_SRC_PORT))
	e.To = netip.AddrPortFrom(address(nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST), port(nl.CTA_PROTO_DST_PORT))
	return e, protocol
}

// attribute returns the value of a kind among netlink attributes, nil when there is none.
func attribute(raw []byte, kind uint16) []byte {
	all, err := nl.ParseRouteAttr(raw)
	if err != nil {
		return nil
	}
	for _, a := range all {
		if a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return a.Value
		}
	}
	return nil
}
