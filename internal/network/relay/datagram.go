package relay

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// idle is for how long a client's port is remembered after its last datagram, either way (as the kernel does for
// connections of UDP that were answered).
const idle = 2 * time.Minute

// buffers hold a datagram of any size each. Who waits for one has none: there may be thousands who wait.
var buffers = sync.Pool{New: func() any { return new([65535]byte) }}

// receive waits for a datagram. The caller puts the buffer back.
func receive(conn *net.UDPConn) (buf *[65535]byte, n int, from netip.AddrPort, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, 0, from, err
	}
	var sender unix.Sockaddr
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*[65535]byte)
		n, sender, failed = unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
		if failed != nil {
			buffers.Put(buf)
		}
		return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
	})
	if err = cmp.Or(err, failed); err != nil {
		return nil, 0, from, err
	}
	if s, ok := sender.(*unix.SockaddrInet6); ok {
		from = netip.AddrPortFrom(netip.AddrFrom16(s.Addr), uint16(s.Port))
	}
	return buf, n, from, nil
}

// datagrams passes datagrams on, each client's from a socket of its own, and the answers back.
func (r *Relay) datagrams(d *door, p Port, conn *net.UDPConn) {
	var mu sync.Mutex
	clients := map[netip.AddrPort]*net.UDPConn{}
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range clients {
			c.Close()
		}
	}()
	for {
		buf, n, from, err := receive(conn)
		if err != nil {
			if d.ctx.Err() != nil {
				return
			}
			continue // a client that does not listen any more
		}
		mu.Lock()
		to := clients[from]
		mu.Unlock()
		if to == nil {
			if to = r.session(p); to != nil {
				mu.Lock()
				clients[from] = to
				mu.Unlock()
				r.busy.Go(func() {
					defer func() { <-r.sessions }()
					answer(conn, from, to)
					mu.Lock()
					delete(clients, from)
					mu.Unlock()
					to.Close()
				})
			}
		}
		if to != nil { // else it is lost, as where a queue of the network's is full
			_ = to.SetReadDeadline(time.Now().Add(idle))
			_, _ = to.Write(buf[:n])
		}
		buffers.Put(buf)
	}
}

// session makes the socket of one client; nil when there are too many.
func (r *Relay) session(p Port) *net.UDPConn {
	select {
	case r.sessions <- struct{}{}:
	default:
		return nil
	}
	var out *net.UDPConn
	err := r.in(func() (err error) {
		out, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.onward(p)))
		return err
	})
	if err != nil {
		<-r.sessions
		return nil
	}
	return out
}

// answer passes back what comes, until nothing has come or gone for a while, or the other side refuses.
func answer(conn *net.UDPConn, client netip.AddrPort, from *net.UDPConn) {
	for {
		buf, n, _, err := receive(from)
		if err != nil {
			return
		}
		_ = from.SetReadDeadline(time.Now().Add(idle))
		_, err = conn.WriteToUDPAddrPort(buf[:n], client)
		buffers.Put(buf)
		if err != nil {
			return
		}
	}
}
