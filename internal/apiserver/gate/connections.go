package gate

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// turn is how many bytes a connection writes before others get their turn: making them takes 1 ms or so, where the
	// Go scheduler would leave a goroutine running for ten.
	turn = 64 << 10
	// shedPart is the part of all connections that are closed together when there are too many.
	shedPart = 16
)

// Connections is a listener that never has more than a number of connections open: descriptors that the store and the
// logs need stay free, and memory is bounded. When one too many comes, those are closed that have never asked
// anything, then those that have asked nothing for longest; one that is being served is not closed.
type Connections struct {
	net.Listener
	most int
	// handshakes bounds how many handshakes compute at once: thousands that begin together leave the processors to
	// requests in between.
	handshakes chan struct{}

	mu   sync.Mutex
	open map[*connection]struct{}
}

// NewConnections bounds the connections of a listener.
func NewConnections(l net.Listener, most int) *Connections {
	return &Connections{
		Listener: l, most: most, open: map[*connection]struct{}{},
		handshakes: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
}

// connection is one of them.
type connection struct {
	net.Conn
	of *Connections
	// rests is since when it has asked nothing, in Unix nanoseconds; 0 while it is served.
	rests atomic.Int64
	used  atomic.Bool
	// computing says that a handshake has one of the slots.
	computing atomic.Bool
	// hurried says that writes have a deadline.
	hurried  atomic.Bool
	unturned int
}

// Accept implements net.Listener.
func (c *Connections) Accept() (net.Conn, error) {
	for {
		inner, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn := &connection{Conn: inner, of: c}
		conn.rests.Store(time.Now().UnixNano())
		if c.admit(conn) {
			return conn, nil
		}
		_ = inner.Close() // it is refused; there is nobody to tell
	}
}

// admit counts a connection, and makes room for it if it must.
func (c *Connections) admit(conn *connection) bool {
	c.mu.Lock()
	var shed []*connection
	if len(c.open) >= c.most {
		shed = c.longest(max(1, c.most/shedPart))
		for _, old := range shed {
			delete(c.open, old)
		}
	}
	ok := len(c.open) < c.most
	if ok {
		c.open[conn] = struct{}{}
	}
	c.mu.Unlock()
	for _, old := range shed {
		_ = old.Close() // it is over
	}
	return ok
}

// longest returns up to n connections that may be closed, the least missed first.
func (c *Connections) longest(n int) []*connection {
	var resting []*connection
	since := map[*connection]int64{}
	for conn := range c.open {
		if at := conn.rests.Load(); at != 0 {
			resting = append(resting, conn)
			since[conn] = at
		}
	}
	slices.SortFunc(resting, func(a, b *connection) int {
		if x, y := a.used.Load(), b.used.Load(); x != y {
			if x {
				return 1
			}
			return -1
		}
		return cmp.Compare(since[a], since[b])
	})
	return resting[:min(n, len(resting))]
}

// State is the http.Server's ConnState.
func (c *Connections) State(conn net.Conn, state http.ConnState) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	own, ok := conn.(*connection)
	if !ok {
		return
	}
	switch state {
	case http.StateActive, http.StateHijacked:
		own.rests.Store(0)
		own.used.Store(true)
	case http.StateIdle:
		own.rests.Store(time.Now().UnixNano())
		if own.hurried.Load() { // it was the last request's, and did not matter
			_ = own.SetWriteDeadline(time.Time{}) // a connection that is gone needs none
		}
	}
}

// Hello is the tls.Config's GetConfigForClient: it waits for one of the slots for handshakes. The connection gives it
// back when it reads on, which is when the server's part has been computed.
func (c *Connections) Hello(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	own, ok := hello.Conn.(*connection)
	if !ok {
		return nil, nil //nolint:nilnil // the configuration stays as it is
	}
	return nil, own.compute(hello.Context())
}

func (c *connection) compute(ctx context.Context) error {
	select {
	case c.of.handshakes <- struct{}{}:
		c.computing.Store(true)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *connection) rest() {
	if c.computing.Load() && c.computing.CompareAndSwap(true, false) {
		<-c.of.handshakes
	}
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	c.rest()
	return c.Conn.Read(p)
}

// Write implements net.Conn. TLS writes one record after the other, so that there is one writer at a time.
func (c *connection) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.unturned += n; c.unturned >= turn {
		c.unturned = 0
		runtime.Gosched()
	}
	return n, err
}

// SetWriteDeadline implements net.Conn.
func (c *connection) SetWriteDeadline(t time.Time) error {
	c.hurried.Store(!t.IsZero())
	return c.Conn.SetWriteDeadline(t)
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.rest()
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// Open tells how many connections there are.
func (c *Connections) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}
