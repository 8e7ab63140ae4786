package serve

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"

	zone "coracle/internal/dns"
	"coracle/internal/pause"
)

// accept serves connections, as many at a time as are allowed.
func (s *Server) accept(ctx context.Context, l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			if s.over(ctx, err) {
				return
			}
			if !pause.For(ctx, 100*time.Millisecond) { // out of descriptors, perhaps
				return
			}
			continue
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if !s.connections.take(from) {
			s.dropped.Add(1)
			_ = conn.Close() // its client asks again
			continue
		}
		s.wg.Go(func() {
			defer s.connections.give(from)
			s.stream(ctx, conn, from)
		})
	}
}

// stream answers one connection's questions in order (RFC 7766).
func (s *Server) stream(ctx context.Context, conn *net.TCPConn, from netip.Addr) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }) // no new question
	defer stop()
	in, out := make([]byte, largestQuestion), make([]byte, 0, largestQuestion)
	for ctx.Err() == nil {
		if conn.SetReadDeadline(time.Now().Add(idleTime)) != nil || ctx.Err() != nil {
			return
		}
		size, err := io.ReadFull(conn, in[:2])
		if err != nil || size != 2 {
			return
		}
		n := int(binary.BigEndian.Uint16(in))
		if n > len(in) {
			return
		}
		if _, err := io.ReadFull(conn, in[:n]); err != nil {
			return
		}
		reply, e := s.answer(in[:n], from, zone.LargestMessage, out)
		if e != nil {
			reply = s.run(context.WithoutCancel(ctx), e)
		}
		if reply == nil {
			return
		}
		s.answered.Add(1)
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply)))
		if conn.SetWriteDeadline(time.Now().Add(idleTime)) != nil {
			return
		}
		if _, err := conn.Write(append(framed, reply...)); err != nil {
			return
		}
	}
}
