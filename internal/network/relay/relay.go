// Package relay makes node ports answer at ::1, where the kernel can lead nothing: what connects there is passed on to
// 127.0.0.1, or for services of IPv6 alone to an IPv6 address of the node, where the kernel leads it to the service.
//
// It owns the sockets at ::1, one for each node port that leads somewhere, and what passes through them. It refuses all
// addresses but ::1, and to know services: whoever routes them says which ports lead somewhere (package services). A machine
// without IPv6 has no ::1, and nothing is to be done there.
package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Port is a node port.
type Port struct {
	Number uint16
	// UDP, or else TCP.
	UDP bool
}

func (p Port) String() string {
	if p.UDP {
		return "UDP/" + strconv.Itoa(int(p.Number))
	}
	return "TCP/" + strconv.Itoa(int(p.Number))
}

// Bounds of what passes at once, over all ports: streams beyond them are reset, datagrams are lost.
const (
	maxStreams  = 4096
	maxSessions = 1024
)

// Relay passes on what comes to ::1. Make it with New.
type Relay struct {
	log *slog.Logger
	// in runs a function in the network namespace of the node.
	in       func(func() error) error
	streams  chan struct{}
	sessions chan struct{}

	mu     sync.Mutex
	ports  map[Port]*door
	leads  map[Port][]netip.Addr // where each port leads on from
	passed map[net.Conn]bool
	closed bool
	// busy are the goroutines of all ports.
	busy sync.WaitGroup
}

// door is a port that is open.
type door struct {
	ctx  context.Context
	shut func()
}

// New returns a relay without ports. Sockets are made by in, where given: in the network namespace of the node.
func New(log *slog.Logger, in func(func() error) error) *Relay {
	if in == nil {
		in = func(f func() error) error { return f() }
	}
	return &Relay{
		log: log, in: in, ports: map[Port]*door{}, leads: map[Port][]netip.Addr{}, passed: map[net.Conn]bool{}, streams: make(chan struct{}, maxStreams), sessions: make(chan struct{}, maxSessions),
	}
}

// Set says whether a port leads somewhere from an address of the node. One that does from none is closed: the kernel refuses
// connections to it.
func (r *Relay) Set(p Port, from netip.Addr, leadsFrom bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leads[p] = slices.DeleteFunc(slices.Clone(r.leads[p]), func(a netip.Addr) bool { return a == from })
	if leadsFrom {
		r.leads[p] = append(r.leads[p], from)
		slices.SortFunc(r.leads[p], netip.Addr.Compare) // IPv4 first: 127.0.0.1 is not seen as any link's
	}
	leads := len(r.leads[p]) > 0
	if !leads {
		delete(r.leads, p)
	}
	open, is := r.ports[p]
	switch {
	case r.closed || is == leads:
	case is:
		open.shut()
		delete(r.ports, p)
	default:
		d, err := r.open(p)
		switch {
		case err == nil:
			r.ports[p] = d
		case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
			// No IPv6 here.
		case errors.Is(err, unix.EADDRINUSE):
			r.log.Warn("a node port does not lead from ::1: another process has it there", "port", p.String())
		default:
			r.log.Warn("a node port does not lead from ::1", "port", p.String(), "err", err)
		}
	}
}

// Close closes all ports, ends what passes through them, and waits until it has ended.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	for p, d := range r.ports {
		d.shut()
		delete(r.ports, p)
	}
	for c := range r.passed {
		c.Close()
	}
	r.mu.Unlock()
	r.busy.Wait()
}

// track has Close close connections; after it they are closed at once.
func (r *Relay) track(conns ...net.Conn) (untrack func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		if r.passed[c] = true; r.closed {
			c.Close()
		}
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range conns {
			delete(r.passed, c)
		}
	}
}

func at(host netip.Addr, p Port) netip.AddrPort { return netip.AddrPortFrom(host, p.Number) }

// onward is where what comes to a port is passed on to; not valid where it has just been closed.
func (r *Relay) onward(p Port) netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.leads[p]) == 0 {
		return netip.AddrPort{}
	}
	return at(r.leads[p][0], p)
}

// open listens at ::1. The agents of several nodes of one machine share the port: each passes on to the same.
func (r *Relay) open(p Port) (*door, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var socket io.Closer
	d := &door{ctx, func() {
		cancel()
		socket.Close()
	}}
	address := at(netip.IPv6Loopback(), p).String()
	err := r.in(func() error {
		config := net.ListenConfig{Control: shared}
		if p.UDP {
			conn, err := config.ListenPacket(ctx, "udp6", address)
			if socket = conn; err == nil {
				r.busy.Go(func() { r.datagrams(d, p, conn.(*net.UDPConn)) })
			}
			return err
		}
		l, err := config.Listen(ctx, "tcp6", address)
		if socket = l; err == nil {
			r.busy.Go(func() { r.accept(d, p, l.(*net.TCPListener)) })
		}
		return err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return d, nil
}

func shared(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); e != nil {
		return e
	}
	return err
}
