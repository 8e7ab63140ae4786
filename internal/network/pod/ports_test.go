package pod

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"coracle/internal/network/nstest"
)

// serveAt listens in a namespace until the test ends and answers each connection with its
// client's address.
func serveAt(t *testing.T, path string, addr netip.AddrPort) {
	t.Helper()
	var l net.Listener
	at(t, path, func() (err error) {
		l, err = net.Listen("tcp", addr.String())
		return err
	})
	if t.Failed() {
		t.FailNow()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(c.RemoteAddr().(*net.TCPAddr).IP.String()))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// ask dials from a namespace ("" is the host itself) and returns the answer, "" when there is none.
func ask(t *testing.T, path string, addr netip.AddrPort) string {
	t.Helper()
	answer := ""
	dial := func() error {
		c, err := net.DialTimeout("tcp", addr.String(), 2*time.Second)
		if err != nil {
			return nil // nobody there: an answer too
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 64)
		n, _ := c.Read(buf)
		answer = string(buf[:n])
		return nil
	}
	if path == "" {
		_ = dial()
	} else {
		at(t, path, dial)
	}
	return answer
}

func TestPublishedPorts(t *testing.T) {
	nstest.Run(t, func() {
		cfg := config(t, "cora", "10.244.0.0/24")
		n := mustOpen(t, cfg)
		web, peer := sandbox(t, "web"), sandbox(t, "peer")
		atWeb, atPeer := mustAttach(t, n, web, "web"), mustAttach(t, n, peer, "peer")
		away, awayIP, host := outside(t)
		serveAt(t, web, netip.AddrPortFrom(atWeb.IP, 80))
		port := netip.AddrPortFrom(host, 8080)

		if got := ask(t, away, port); got != "" {
			t.Errorf("before it is published: %q", got)
		}
		publish := func(id string, list ...Port) {
			t.Helper()
			if err := n.Publish(id, list); err != nil {
				t.Fatal(err)
			}
		}
		publish("web", Port{HostPort: 8080, ContainerPort: 80}, Port{HostPort: 8081, ContainerPort: 80, HostIP: netip.MustParseAddr("192.0.2.99")})
		check := func(when string) {
			t.Helper()
			for from, want := range map[string]struct{ path, saw string }{
				"outside":  {away, awayIP.String()}, // the client's own address arrives
				"a pod":    {peer, atPeer.IP.String()},
				"the pod":  {web, "10.244.0.1"}, // hairpin: as if from the bridge
				"the host": {"", host.String()},
			} {
				if got := ask(t, want.path, port); got != want.saw {
					t.Errorf("%s, from %s: the pod saw %q, want %q", when, from, got, want.saw)
				}
			}
			if got := ask(t, away, netip.AddrPortFrom(host, 8081)); got != "" {
				t.Errorf("%s: a port of another address answers: %q", when, got)
			}
		}
		check("published")
		n.Close()
		n = mustOpen(t, cfg)
		check("after a restart")

		if err := n.Publish("peer", []Port{{HostPort: 8080, ContainerPort: 1}}); err == nil || !strings.Contains(err.Error(), "taken by sandbox web") {
			t.Errorf("a port twice: %v", err)
		}
		publish("peer", Port{Protocol: "udp", HostPort: 8080, ContainerPort: 1}) // another protocol is another port
		if err := n.Detach("web"); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, away, port); got != "" {
			t.Errorf("after the pod has gone: %q", got)
		}
		if err := n.Destroy(); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(cfg.StateDir); err != nil || len(entries) != 0 {
			t.Errorf("left behind: %v %v", entries, err)
		}
	})
}

func TestPublishRefuses(t *testing.T) {
	nstest.Run(t, func() {
		n := mustOpen(t, config(t, "cora", "10.244.0.0/24"))
		defer n.Close()
		mustAttach(t, n, sandbox(t, "one"), "one")
		for name, c := range map[string]struct {
			id   string
			port Port
			want string
		}{
			"not attached": {"two", Port{HostPort: 1, ContainerPort: 1}, "not attached"},
			"protocol":     {"one", Port{Protocol: "ICMP", HostPort: 1, ContainerPort: 1}, "TCP, UDP or SCTP"},
			"no port":      {"one", Port{HostPort: 1}, "1 to 65535"},
			"IPv6":         {"one", Port{HostPort: 1, ContainerPort: 1, HostIP: netip.MustParseAddr("::1")}, "IPv4"},
		} {
			if err := n.Publish(c.id, []Port{c.port}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
		}
	})
}
