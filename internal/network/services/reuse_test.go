package services

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// stream is a connection to a service as both of its ends have it.
type stream struct {
	client, server *net.TCPConn
}

// ends are the ways in which a connection can be over for its client, while the kernel's connection tracking holds it for
// open still, or half open, or just reset: it lets a new connection from the same port be part of the old one then. before
// comes before the pod is gone, after comes when it is.
var ends = map[string]struct{ before, after func(w *world, s stream) }{
	"as it should": {before: func(w *world, s stream) {
		w.must(s.server.Close())
		_, _ = io.Copy(io.Discard, s.client)
		w.must(s.client.Close())
	}},
	"without a word": {after: func(w *world, s stream) { w.vanish(s.client) }},
	"the client's end is not heard": {after: func(w *world, s stream) {
		w.must(s.client.CloseWrite())
		w.vanish(s.client)
	}},
	"the client's answer to the pod's end is not heard": {
		before: func(w *world, s stream) {
			w.must(s.server.Close())
			_, _ = io.Copy(io.Discard, s.client)
		},
		after: func(w *world, s stream) {
			w.must(s.client.CloseWrite())
			w.vanish(s.client)
		},
	},
	"the pod resets it": {before: func(w *world, s stream) {
		w.must(s.server.SetLinger(0))
		w.must(s.server.Close())
		_, _ = io.Copy(io.Discard, s.client)
		w.must(s.client.Close())
	}},
}

// TestPortUsedAgain: a client whose connection was to a pod that is gone may connect again from the same port at once, and is
// led to a pod that is there. What is open to a pod that is no endpoint any more, but lives, stays open.
func TestPortUsedAgain(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		b, ipB := w.sandbox("b")
		client, _ := w.sandbox("client")
		w.serve(b, "tcp4", ":8080", "b")
		web := service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80))
		web.Spec.Type, web.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
		w.put(web)
		source := 30000 // below the ports that the kernel gives
		for how, end := range ends {
			a, ipA := w.sandbox("a")
			w.put(slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
			w.settle()
			accept, shut := w.accepting(a, ":8080")
			type route struct {
				from, to string
				port     int
				stream
			}
			var routes []route
			for from, to := range map[string]string{"": "10.96.0.10:80", client: "10.96.0.10:80", out: "192.0.2.1:30080"} {
				source++
				r := route{from: from, to: to, port: source}
				r.client = w.dialFrom(from, source, to)
				r.server = accept()
				routes = append(routes, r)
			}
			w.put(slice("web", "http", corev1.ProtocolTCP, 8080, ipB))
			w.settle()
			for _, r := range routes {
				w.alive(r.stream)
				if end.before != nil {
					end.before(w, r.stream)
				}
			}
			w.must(w.net.Detach("a"))
			for _, r := range routes {
				if end.after != nil {
					end.after(w, r.stream)
				}
			}
			for _, r := range routes {
				if got := w.askFrom(r.from, r.port, r.to); got != "b" {
					t.Errorf("%s: from port %d of %q to %s: %s", how, r.port, r.from, r.to, got)
				}
			}
			w.unnamed(ipA)
			shut()
			for _, r := range routes {
				r.client.Close()
				r.server.Close()
			}
		}
	})
}

// TestNoAnswer: a client outside whose first packet got no answer, because the pod was gone already, is led to another pod by the
// next one.
func TestNoAnswer(t *testing.T) {
	inMachine(t, func(w *world) {
		a, ipA := w.sandbox("a")
		b, ipB := w.sandbox("b")
		out := w.outside()
		w.serve(b, "tcp4", ":8080", "b")
		web := service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80))
		web.Spec.Type, web.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
		w.put(web, slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		w.must(w.in(a, func() error {
			link, err := netlink.LinkByName("eth0")
			return errors.Join(err, netlink.LinkSetDown(link))
		}))
		asked := make(chan string, 1)
		go func() { asked <- w.askFrom(out, 30000, "192.0.2.1:30080") }()
		w.eventually("the first packet to be on its way", func() bool { return w.neighbour(ipA) })
		w.put(slice("web", "http", corev1.ProtocolTCP, 8080, ipB))
		w.settle()
		w.must(w.net.Detach("a"))
		if got := <-asked; got != "b" {
			t.Errorf("the client got %s", got)
		}
	})
}

// TestResetOnceGone: a client that goes on with a connection to a pod that is gone is told so at once, and does not wait for an
// answer; where another pod serves, and where none does.
func TestResetOnceGone(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		b, ipB := w.sandbox("b")
		client, _ := w.sandbox("client")
		w.serve(b, "tcp4", ":8080", "b")
		web := service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80))
		web.Spec.Type, web.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
		w.put(web)
		for how, left := range map[string][]netip.Addr{"another serves": {ipB}, "none serves": nil} {
			a, ipA := w.sandbox("a")
			w.put(slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
			w.settle()
			accept, shut := w.accepting(a, ":8080")
			var open []stream
			for from, to := range map[string]string{"": "10.96.0.10:80", client: "10.96.0.10:80", out: "192.0.2.1:30080"} {
				open = append(open, stream{client: w.dialFrom(from, 0, to), server: accept()})
			}
			w.put(slice("web", "http", corev1.ProtocolTCP, 8080, left...))
			w.settle()
			w.must(w.net.Detach("a"))
			for i, s := range open {
				_, err := s.client.Write([]byte("!"))
				w.must(err)
				w.must(s.client.SetReadDeadline(time.Now().Add(w.patience)))
				if _, err := s.client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("%s: client %d is told %v", how, i, err)
				}
				s.client.Close()
				s.server.Close()
			}
			shut()
		}
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Error(err)
	}
}

// eventually waits for a condition.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !holds(); <-tick.C {
		if time.Now().After(end) {
			w.t.Errorf("waited in vain for %s", what)
			return
		}
	}
}

// accepting listens in a pod, and hands out what it accepts.
func (w *world) accepting(path, at string) (accept func() *net.TCPConn, shut func()) {
	w.t.Helper()
	var l net.Listener
	err := w.in(path, func() (err error) {
		l, err = net.Listen("tcp4", at)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return func() *net.TCPConn {
		c, err := l.Accept()
		if err != nil {
			w.t.Fatal(err)
		}
		return c.(*net.TCPConn)
	}, func() { l.Close() }
}

// dialer connects from a port that may have been used before.
func (w *world) dialer(port int) *net.Dialer {
	return &net.Dialer{
		Timeout: 6 * time.Second, LocalAddr: &net.TCPAddr{Port: port},
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }), err)
		},
	}
}

func (w *world) dialFrom(path string, port int, to string) *net.TCPConn {
	w.t.Helper()
	var conn net.Conn
	err := w.in(path, func() (err error) {
		conn, err = w.dialer(port).DialContext(context.Background(), "tcp4", to)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// askFrom connects from a port and returns who answers, or why nobody does.
func (w *world) askFrom(path string, port int, to string) (answer string) {
	err := w.in(path, func() error {
		conn, err := w.dialer(port).DialContext(context.Background(), "tcp4", to)
		if err != nil {
			return err
		}
		defer conn.Close()
		line, err := bufio.NewReader(conn).ReadString('\n')
		answer, _, _ = strings.Cut(line, " ")
		return err
	})
	if err != nil {
		return err.Error()
	}
	return answer
}

// alive says something by a connection, either way.
func (w *world) alive(s stream) {
	w.t.Helper()
	for _, way := range [][2]*net.TCPConn{{s.client, s.server}, {s.server, s.client}} {
		buf := make([]byte, 1)
		_, err := way[0].Write([]byte("!"))
		w.must(err)
		w.must(way[1].SetReadDeadline(time.Now().Add(w.patience)))
		if _, err := io.ReadFull(way[1], buf); err != nil {
			w.t.Errorf("what is open to a pod that is no endpoint any more does not go on: %v", err)
		}
	}
}

// vanish closes a connection without telling its other end, as when no packet gets through any more.
func (w *world) vanish(c *net.TCPConn) {
	w.t.Helper()
	raw, err := c.SyscallConn()
	w.must(err)
	w.must(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_REPAIR, 1) }))
	w.must(errors.Join(err, c.Close()))
}

// named are the connections that the kernel remembers of an address.
func (w *world) named(ip netip.Addr) (out []string) {
	w.t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		w.t.Error(err)
	}
	for _, f := range flows {
		for _, a := range []net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP} {
			if a.Equal(ip.AsSlice()) {
				out = append(out, f.String())
				break
			}
		}
	}
	return out
}

// neighbour says whether the node looks for an address on its links.
func (w *world) neighbour(ip netip.Addr) bool {
	w.t.Helper()
	all, err := netlink.NeighList(0, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		w.t.Error(err)
	}
	return slices.ContainsFunc(all, func(n netlink.Neigh) bool { return n.IP.Equal(ip.AsSlice()) })
}

// unnamed: no connection is remembered of an address that is nobody's.
func (w *world) unnamed(ip netip.Addr) {
	w.t.Helper()
	if left := w.named(ip); len(left) > 0 {
		w.t.Errorf("%s is nobody's, and remembered by\n%s", ip, strings.Join(left, "\n"))
	}
}
