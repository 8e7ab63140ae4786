package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of pipes.
type pipes struct{ dialled chan net.Conn }

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.dialled
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p.dialled); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// crowd is a bounded listener, and those who have called it.
type callers struct {
	*Connections
	t   *testing.T
	p   pipes
	got chan net.Conn
}

func newCallers(t *testing.T, most int) *callers {
	p := pipes{make(chan net.Conn)}
	c := &callers{NewConnections(p, most), t, p, make(chan net.Conn, 1)}
	go func() {
		for {
			conn, err := c.Accept()
			if err != nil {
				return
			}
			c.got <- conn
		}
	}()
	return c
}

// call opens a connection and returns both ends; the server's is nil when it was refused.
func (c *callers) call() (client, server net.Conn) {
	c.t.Helper()
	near, far := net.Pipe()
	c.t.Cleanup(func() { near.Close(); far.Close() })
	c.p.dialled <- far
	synctest.Wait()
	time.Sleep(time.Second) // nobody else came in this second
	select {
	case server = <-c.got:
	default:
	}
	return near, server
}

func isOpen(client net.Conn) bool {
	if err := client.SetReadDeadline(time.Now()); err != nil {
		return false
	}
	_, err := client.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCallers(t, 4)
		var clients, servers []net.Conn
		for range 4 {
			client, server := c.call()
			clients, servers = append(clients, client), append(servers, server)
		}
		// The first is served, the second has been and rests, the third rests longer, the fourth never asked.
		c.State(servers[0], http.StateActive)
		c.State(servers[2], http.StateActive)
		c.State(servers[2], http.StateIdle)
		time.Sleep(time.Second)
		c.State(servers[1], http.StateActive)
		c.State(servers[1], http.StateIdle)
		for n, wantOpen := range [][]bool{{true, true, true, false}, {true, true, false, false}, {true, false, false, false}} {
			_, server := c.call()
			if server == nil {
				t.Fatalf("caller %d is refused although somebody rests", n)
			}
			c.State(server, http.StateActive)
			for i, want := range wantOpen {
				if isOpen(clients[i]) != want {
					t.Errorf("after %d more: connection %d open is %v, want %v", n+1, i, !want, want)
				}
			}
			if c.Open() != 4 {
				t.Errorf("%d connections are open, want 4", c.Open())
			}
		}
		late, server := c.call()
		if server != nil || isOpen(late) {
			t.Error("a connection more than the most, while all are served")
		}
		if !isOpen(clients[0]) {
			t.Error("a connection that was served has been closed")
		}
		servers[0].Close()
		if _, server = c.call(); server == nil {
			t.Error("refused after one has gone")
		}
		close(c.p.dialled)
	})
}

// TestHandshakesTakeTurns: as many handshakes compute as there are processors; one that waits for its peer gives way.
func TestHandshakesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCallers(t, 1000)
		slots := runtime.GOMAXPROCS(0)
		hello := func(server net.Conn) chan error {
			done := make(chan error, 1)
			go func() { done <- server.(*connection).compute(context.Background()) }()
			synctest.Wait()
			return done
		}
		var first []net.Conn
		for range slots {
			_, server := c.call()
			if err := <-hello(server); err != nil {
				t.Fatal(err)
			}
			first = append(first, server)
		}
		_, late := c.call()
		waits := hello(late)
		select {
		case <-waits:
			t.Fatal("more handshakes compute than there are processors")
		default:
		}
		go first[0].Read(make([]byte, 1)) // it waits for its peer for ever
		if err := <-waits; err != nil {
			t.Fatal(err)
		}
		_, gone := c.call()
		waits = hello(gone)
		late.Close()
		if err := <-waits; err != nil {
			t.Fatal("a handshake that broke off keeps its turn:", err)
		}
		for _, conn := range append(first, gone) {
			conn.Close()
		}
		if len(c.handshakes) != 0 {
			t.Errorf("%d turns are never given back", len(c.handshakes))
		}
		if _, err := c.Hello(&tls.ClientHelloInfo{}); err != nil {
			t.Error("a connection of another kind:", err)
		}
		close(c.p.dialled)
	})
}
