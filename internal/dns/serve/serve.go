// Package serve answers DNS on sockets: UDP and TCP, at the addresses of one node.
//
// It owns the sockets, the lock around the zone, and how much is under way at a time. What is answered is decided by
// package dns, whom else to ask by package upstream. It refuses messages that are no questions, and clients that hold
// connections without asking.
package serve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"

	zone "coracle/internal/dns"
	"coracle/internal/dns/upstream"
)

// Bounds of what clients may hold.
const (
	mostErrands     = 2048 // questions that wait for others
	eachErrands     = 256  // of them, of one client
	mostConnections = 256
	eachConnections = 32
	idleTime        = 10 * time.Second // of a connection (RFC 7766 6.2.3)
	largestQuestion = 4096             // by TCP
	largestDatagram = 2048             // a question's, with options; of what is longer the rest is lost
)

// Config is what a server is made of.
type Config struct {
	Zone     *zone.Zone
	Upstream *upstream.Resolver
	Log      *slog.Logger
}

// Counts say what a server has done.
type Counts struct {
	// Answered by the zone, Asked of others, Dropped because too many waited.
	Answered, Asked, Dropped uint64
}

// Server answers. Its methods are safe for concurrent use.
type Server struct {
	cfg Config

	mu   sync.RWMutex // guards the zone and askers
	pods map[netip.Addr]*zone.Asker

	errands, connections *places

	answered, asked, dropped atomic.Uint64
	wg                       sync.WaitGroup
}

// New returns a server without sockets.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, pods: map[netip.Addr]*zone.Asker{},
		errands: newPlaces(mostErrands, eachErrands), connections: newPlaces(mostConnections, eachConnections),
	}
}

// Change changes the zone.
func (s *Server) Change(f func(*zone.Zone)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.cfg.Zone)
}

// Know says who asks from an address; nil forgets it.
func (s *Server) Know(a netip.Addr, who *zone.Asker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if who == nil {
		delete(s.pods, a)
	} else {
		s.pods[a] = who
	}
}

// Counts returns what was done so far.
func (s *Server) Counts() Counts {
	return Counts{s.answered.Load(), s.asked.Load(), s.dropped.Load()}
}

// answer answers from one revision of the zone.
func (s *Server) answer(raw []byte, from netip.Addr, limit int, out []byte) ([]byte, *zone.Errand) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cfg.Zone.Answer(raw, s.pods[from.Unmap()], limit, out)
}

// run asks others; nil where the question is one of our own that came back.
func (s *Server) run(ctx context.Context, e *zone.Errand) []byte {
	if len(e.Names) == 1 && s.cfg.Upstream.Looped(e.Names[0]) {
		return nil
	}
	s.asked.Add(1)
	name, msg := s.cfg.Upstream.Resolve(ctx, e)
	return e.Finish(name, msg, nil)
}

// Serve answers until ctx ends, on sockets that it closes then. What is under way is answered first.
func (s *Server) Serve(ctx context.Context, udp *net.UDPConn, tcp *net.TCPListener) {
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = udp.SetReadDeadline(past) // fails only on what is closed
		_ = tcp.SetDeadline(past)
	})
	defer stop()
	var readers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 4) {
		readers.Go(func() { s.datagrams(ctx, udp) })
	}
	readers.Go(func() { s.accept(ctx, tcp) })
	readers.Wait()
	s.wg.Wait()
	_ = errors.Join(udp.Close(), tcp.Close())
}

// batch is how many datagrams one system call takes or gives, where so many wait.
const batch = 32

// datagrams answers what comes by UDP.
func (s *Server) datagrams(ctx context.Context, udp *net.UDPConn) {
	conn := ipv4.NewPacketConn(udp)
	in, out := make([]ipv4.Message, batch), make([]ipv4.Message, 0, batch)
	room := make([]byte, 2*batch*largestDatagram)
	part := func(i int) []byte {
		return room[i*largestDatagram : (i+1)*largestDatagram : (i+1)*largestDatagram]
	}
	for i := range in {
		in[i].Buffers = [][]byte{part(i)}
	}
	answers := make([][1][]byte, batch)
	for {
		n, err := conn.ReadBatch(in, 0)
		if err != nil {
			if s.over(ctx, err) {
				return
			}
			continue
		}
		out = out[:0]
		for i := range in[:n] {
			m := &in[i]
			from, ok := m.Addr.(*net.UDPAddr)
			if !ok {
				continue
			}
			at := from.AddrPort()
			reply, e := s.answer(m.Buffers[0][:m.N], at.Addr(), 0, part(batch + i)[:0])
			switch {
			case e != nil:
				s.behind(ctx, udp, e, at)
			case reply != nil:
				answers[i][0] = reply
				out = append(out, ipv4.Message{Buffers: answers[i][:], Addr: m.Addr})
			}
		}
		s.answered.Add(uint64(len(out)))
		send(conn, out)
	}
}

// send sends all of a batch. What cannot be sent to one client is none of the others'.
func send(conn *ipv4.PacketConn, out []ipv4.Message) {
	for len(out) > 0 {
		n, err := conn.WriteBatch(out, 0)
		if err != nil || n <= 0 {
			n = 1
		}
		out = out[n:]
	}
}

// over says whether an error of a socket is its end.
func (s *Server) over(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return true
	}
	s.cfg.Log.Warn("read a question", "err", err)
	return false
}

// behind answers later. When too many wait, the client is left to ask again.
func (s *Server) behind(ctx context.Context, conn *net.UDPConn, e *zone.Errand, from netip.AddrPort) {
	if !s.errands.take(from.Addr()) {
		s.dropped.Add(1)
		return
	}
	s.wg.Go(func() {
		defer s.errands.give(from.Addr())
		if reply := s.run(context.WithoutCancel(ctx), e); reply != nil {
			_, _ = conn.WriteToUDPAddrPort(reply, from) // as above
		}
	})
}
