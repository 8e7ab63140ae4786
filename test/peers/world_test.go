package peers

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"coracle/internal/client/remote"
	"coracle/internal/pki"
)

// started is a process of the test's.
type started struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

// start starts a process in the network namespace of the calling thread. It ends with that thread at the latest.
func start(t *testing.T, env []string, path string, args ...string) *started {
	t.Helper()
	s := &started{t: t, cmd: exec.Command(path, args...)}
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stderr = t.Output()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.in, s.out = in, bufio.NewReader(out)
	return s
}

// end ends it, as whoever started it ends it: by its input, or else by a signal.
func (s *started) end() {
	_ = s.in.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	hung := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer hung.Stop()
	_ = s.cmd.Wait() // that a signal ended it is no failure
}

// spent is the processor's time that it has had.
func (s *started) spent() time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ
	return time.Duration(user+system) * tick
}

// resident is how much memory of its own it has, in MiB: now, and at most until now.
func (s *started) resident() (now, most int) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kib); n == 1 {
			now = kib >> 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			most = kib >> 10
		}
	}
	return now, most
}

// cluster is an API server in a process of its own, and the administrator's way to it.
type cluster struct {
	address string
	api     *remote.Client
	pki     *pki.Authority
	dir     string
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{dir: t.TempDir()}
	s := start(t, []string{serverDir + "=" + c.dir}, os.Args[0])
	t.Cleanup(s.end)
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	c.address = strings.TrimSpace(line)
	if c.pki, err = pki.Ensure(filepath.Join(c.dir, "pki"), []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	if c.api, err = remote.FromKubeconfig(c.kubeconfig(t, "admin", c.address)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.api.Close)
	return c
}

// kubeconfig writes one that reaches the server at an address.
func (c *cluster) kubeconfig(t *testing.T, name, address string) string {
	t.Helper()
	pair, err := c.pki.ClientCert(name, pki.MastersGroup)
	if err != nil {
		t.Fatal(err)
	}
	b := base64.StdEncoding.EncodeToString
	path := filepath.Join(c.dir, name+".kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],
"users":[{"name":"a","user":{"client-certificate-data":"%s","client-key-data":"%s"}}],
"clusters":[{"name":"a","cluster":{"server":"https://%s","certificate-authority-data":"%s"}}]}`, b(pair.Certificate), b(pair.Key), address, b(c.pki.CACert()))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// machine is a network namespace in which every pod's address is a local one, so that a packet that a proxy leads to a pod arrives
// with whoever listens here. It has the calling thread.
type machine struct {
	t *testing.T
	// api is where the server is reached from in here.
	api string

	mu sync.Mutex
	// arrived is when a datagram first arrived at an address.
	arrived map[netip.Addr]time.Time
}

// from is the machine's own address.
const from = "192.0.2.1"

// setUp makes the calling thread's network namespace one.
func setUp(t *testing.T, api string) *machine {
	t.Helper()
	m := &machine{t: t, arrived: map[netip.Addr]time.Time{}}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr(from + "/32")
	if err != nil {
		t.Fatal(err)
	}
	prefix := func(p netip.Prefix) *net.IPNet {
		return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
	}
	const local = 255 // RT_TABLE_LOCAL
	for _, do := range []func() error{
		func() error { return netlink.LinkSetUp(lo) },
		func() error { return netlink.AddrAdd(lo, address) },
		func() error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: prefix(ofServices), Src: net.ParseIP(from), Scope: netlink.SCOPE_LINK})
		},
		func() error {
			return netlink.RouteAdd(&netlink.Route{
				LinkIndex: lo.Attrs().Index, Dst: prefix(ofPods), Table: local, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
			})
		},
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	m.listen()
	m.forward(api)
	return m
}

// listen notes at which addresses datagrams arrive.
func (m *machine) listen() {
	conn, err := net.ListenPacket("udp4", "0.0.0.0:8080")
	if err != nil {
		m.t.Fatal(err)
	}
	p := ipv4.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
		m.t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		buf := make([]byte, 128)
		for {
			_, cm, _, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			now := time.Now()
			to, _ := netip.AddrFromSlice(cm.Dst.To4())
			m.mu.Lock()
			if _, known := m.arrived[to]; !known {
				m.arrived[to] = now
			}
			m.mu.Unlock()
		}
	}()
	m.t.Cleanup(func() {
		_ = conn.Close()
		<-over
	})
}

// forward lets the server be reached, which is in another namespace.
func (m *machine) forward(api string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.api = l.Addr().String()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp4", api)
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					_, _ = io.Copy(out, in)
					_ = out.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	m.t.Cleanup(func() { _ = l.Close() })
}

// send sends a datagram to a service, as a new connection.
func (m *machine) send(service netip.Addr) {
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: service.AsSlice(), Port: 80})
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte{0}) // refused while it leads nowhere
}

// when says when a datagram first arrived at any of some addresses; ok is false while none has.
func (m *machine) when(any []netip.Addr) (at time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range any {
		if at, ok = m.arrived[a]; ok {
			return at, true
		}
	}
	return at, false
}

// patience is how long anything may take. kube-proxy takes a quarter of an hour for 5,000 services with 50 endpoints each.
const patience = 30 * time.Minute

// until sends datagrams to a service until one arrives at any of some addresses, and says when that was.
func (m *machine) until(service netip.Addr, any []netip.Addr) time.Time {
	m.t.Helper()
	tick := time.NewTicker(300 * time.Microsecond) // who asks all the time takes the processors from those whom it waits for
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		if at, ok := m.when(any); ok {
			return at
		}
		if time.Since(began) > patience {
			m.t.Fatalf("%s leads to none of %d addresses", service, len(any))
		}
		m.send(service)
	}
}
