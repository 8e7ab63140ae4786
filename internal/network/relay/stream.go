package relay

import (
	"io"
	"net"
	"sync"
	"time"
)

// dialing bounds how long the kernel may take to lead a connection to a pod.
const dialing = 10 * time.Second

// accept passes connections on. They outlive the port when it closes: a stream ends by itself, as those do that the kernel
// leads; but not the relay.
func (r *Relay) accept(d *door, p Port, l *net.TCPListener) {
	for {
		client, err := l.AcceptTCP()
		if err != nil {
			if d.ctx.Err() != nil {
				return
			}
			select { // the process is out of descriptors, say: whoever waits is not lost
			case <-d.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		select {
		case r.streams <- struct{}{}:
			r.busy.Go(func() {
				defer func() { <-r.streams }()
				r.pass(client, p)
			})
		default:
			_ = client.SetLinger(0)
			client.Close()
		}
	}
}

// pass carries bytes both ways until both have ended. A client whom nobody serves is reset.
func (r *Relay) pass(client *net.TCPConn, p Port) {
	defer client.Close()
	var server net.Conn
	err := r.in(func() (err error) {
		server, err = net.DialTimeout("tcp", r.onward(p).String(), dialing)
		return err
	})
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	defer server.Close()
	untrack := r.track(client, server)
	defer untrack()
	var ways sync.WaitGroup
	ways.Go(func() { carry(server.(*net.TCPConn), client) })
	ways.Go(func() { carry(client, server.(*net.TCPConn)) })
	ways.Wait()
}

// carry copies in the kernel (splice), and passes on the end; a reset, as a reset.
func carry(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.SetLinger(0)
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
}
