package serve

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	zone "coracle/internal/dns"
	"coracle/internal/dns/upstream"
)

// memory is a shelf in this process.
type memory struct {
	mu   sync.Mutex
	kept map[string]*os.File
}

func newMemory(t testing.TB) *memory {
	m := &memory{kept: map[string]*os.File{}}
	t.Cleanup(func() { _ = m.Drop("") })
	return m
}

func (m *memory) Keep(name string, f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(func(fd uintptr) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.kept[name] = dup(fd)
	})
}

func (m *memory) Get(name string) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.kept[name]
	if f == nil {
		return nil, os.ErrNotExist
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var out *os.File
	err = conn.Control(func(fd uintptr) { out = dup(fd) })
	return out, err
}

func (m *memory) Drop(prefix string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, f := range m.kept {
		if strings.HasPrefix(name, prefix) {
			_ = f.Close()
			delete(m.kept, name)
		}
	}
	return nil
}

func snapshot(n int) *zone.Zone {
	z := zone.New(zone.Config{Domain: "cluster.local"})
	for i := range n {
		ip := fmt.Sprintf("10.96.%d.%d", i/250, i%250+1)
		z.SetService(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("svc-%d", i)},
			Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}},
		})
	}
	return z
}

// outside answers every question for a name outside, after a while.
func outside(pause time.Duration) func(context.Context, netip.AddrPort, *dns.Msg) (*dns.Msg, error) {
	return func(ctx context.Context, _ netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		r := new(dns.Msg).SetReply(m)
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 0}, A: net.IPv4(192, 0, 2, 1)}}
		return r, nil
	}
}

// running is a server on loopback.
type running struct {
	*Server
	at   netip.AddrPort
	stop func()
}

func start(t testing.TB, shelf Shelf, at netip.AddrPort, z *zone.Zone, pause time.Duration) *running {
	t.Helper()
	routes, err := zone.ParseRoutes(".=192.0.2.53")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Zone: z, Upstream: upstream.New(upstream.Config{Routes: routes, Exchange: outside(pause)})})
	udp, tcp, err := Open(shelf, at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ctx, udp, tcp) }()
	r := &running{s, netip.MustParseAddrPort(udp.LocalAddr().String()), sync.OnceFunc(func() { cancel(); <-done })}
	t.Cleanup(r.stop)
	return r
}

// freePort finds a port that is free for UDP and TCP.
func freePort(t testing.TB) netip.AddrPort {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at := netip.MustParseAddrPort(l.Addr().String())
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		_ = l.Close()
		if err == nil {
			_ = c.Close()
			return at
		}
	}
	t.Fatal("no free port")
	return netip.AddrPort{}
}

func ask(t testing.TB, network string, at netip.AddrPort, name string) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), at.String())
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return r
}

func TestServe(t *testing.T) {
	r := start(t, nil, freePort(t), snapshot(3), time.Millisecond)
	for _, network := range []string{"udp", "tcp"} {
		for name, want := range map[string]string{"svc-2.ns.svc.cluster.local.": "10.96.0.3", "www.example.com.": "192.0.2.1"} {
			if m := ask(t, network, r.at, name); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != want {
				t.Errorf("%s %s: %v", network, name, m)
			}
		}
	}
	r.Know(netip.MustParseAddr("127.0.0.1"), &zone.Asker{Searches: []string{"ns.svc.cluster.local.", "svc.cluster.local.", "cluster.local."}})
	if m := ask(t, "udp", r.at, "www.example.com.ns.svc.cluster.local."); len(m.Answer) != 2 {
		t.Errorf("a known pod's search list is not used: %v", m)
	}
	r.Know(netip.MustParseAddr("127.0.0.1"), nil)
	if m := ask(t, "udp", r.at, "www.example.com.ns.svc.cluster.local."); m.Rcode != dns.RcodeNameError {
		t.Errorf("a pod that is gone is still known: %v", m)
	}
	r.Change(func(z *zone.Zone) { z.DeleteService(zone.Key{Namespace: "ns", Name: "svc-2"}) })
	if m := ask(t, "udp", r.at, "svc-2.ns.svc.cluster.local."); m.Rcode != dns.RcodeNameError {
		t.Error(m)
	}
	if c := r.Counts(); c.Answered < 5 || c.Asked < 3 || c.Dropped != 0 {
		t.Errorf("%+v", c)
	}
}

// TestPipeline: questions on one connection are answered in turn, and a connection that asks nonsense ends.
func TestPipeline(t *testing.T) {
	r := start(t, nil, freePort(t), snapshot(100), time.Millisecond)
	conn, err := net.Dial("tcp", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &dns.Conn{Conn: conn}
	for i := range 100 {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("svc-%d.ns.svc.cluster.local.", i), dns.TypeA)
		if m.Id = uint16(i); c.WriteMsg(m) != nil {
			t.Fatal("write")
		}
	}
	for i := range 100 {
		m, err := c.ReadMsg()
		if err != nil || m.Id != uint16(i) || len(m.Answer) != 1 {
			t.Fatal(i, m, err)
		}
	}
	if _, err := conn.Write([]byte{0xff, 0xff, 0}); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Error("a connection stays open that asks for more than is taken")
	}
}

// TestNoQuestionIsLost: what is asked while no server runs is answered by the next one, and one that stops answers first
// what it has begun.
func TestNoQuestionIsLost(t *testing.T) {
	shelf, at := newMemory(t), freePort(t)
	r := start(t, shelf, at, snapshot(300), 50*time.Millisecond)
	client, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	sent := 0
	send := func(name string) {
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		m.Id = uint16(sent)
		raw, _ := m.Pack()
		if _, err := client.Write(raw); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	for range 5 {
		send("www.example.com.")
	}
	for deadline := time.Now().Add(5 * time.Second); r.Counts().Asked < 5 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	r.stop()
	for i := range 200 {
		send(fmt.Sprintf("svc-%d.ns.svc.cluster.local.", i))
	}
	stream, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal("a connection is refused while no server runs:", err)
	}
	defer stream.Close()
	again := start(t, shelf, at, snapshot(300), 0)
	seen := map[uint16]bool{}
	buf := make([]byte, 2048)
	for len(seen) < sent {
		if err := client.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := client.Read(buf)
		if err != nil {
			t.Fatalf("%d of %d questions are answered: %v", len(seen), sent, err)
		}
		var m dns.Msg
		if err := m.Unpack(buf[:n]); err != nil || len(m.Answer) != 1 {
			t.Fatal(&m, err)
		}
		seen[m.Id] = true
	}
	c := &dns.Conn{Conn: stream}
	if err := c.WriteMsg(new(dns.Msg).SetQuestion("svc-1.ns.svc.cluster.local.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Error(m, err)
	}
	again.stop()
	if err := shelf.Drop(""); err != nil {
		t.Fatal(err)
	}
	start(t, shelf, at, snapshot(1), 0) // nothing holds the address any more
}

// TestFlood: a client that takes all that it may leaves the others what they need.
func TestFlood(t *testing.T) {
	r := start(t, nil, freePort(t), snapshot(3), time.Second)
	flood, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.at))
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	for i := 0; r.Counts().Dropped == 0; i++ {
		raw, err := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.com.", i), dns.TypeA).Pack()
		if err != nil || i > 100_000 {
			t.Fatal(i, err)
		}
		_, _ = flood.Write(raw)
	}
	var held []net.Conn
	for range eachConnections + 1 {
		conn, err := net.Dial("tcp", r.at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	_ = held[eachConnections].SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := held[eachConnections].Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Error("one connection more than a client may have stays open")
	}
	other := dns.Client{Timeout: 5 * time.Second, Net: "udp", Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}}}
	for _, name := range []string{"svc-1.ns.svc.cluster.local.", "www.example.com."} {
		if m, _, err := other.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), r.at.String()); err != nil || len(m.Answer) != 1 {
			t.Errorf("another client, %s: %v %v", name, m, err)
		}
	}
	other.Net, other.Dialer = "tcp", &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	if m, _, err := other.Exchange(new(dns.Msg).SetQuestion("svc-1.ns.svc.cluster.local.", dns.TypeA), r.at.String()); err != nil || len(m.Answer) != 1 {
		t.Errorf("another client by TCP: %v %v", m, err)
	}
}

// BenchmarkUDP is a node's DNS with its clients on the same machine: each asks again when it has its answer. It reports
// answers a second and the 99th percentile of what a question takes.
func BenchmarkUDP(b *testing.B) {
	for _, load := range []struct{ clients, window int }{{1, 1}, {8, 1}, {1, 16}, {2, 32}} {
		b.Run(fmt.Sprintf("clients=%d/window=%d", load.clients, load.window), func(b *testing.B) { run(b, load.clients, load.window) })
	}
}

// other is a server to be measured instead of one of ours, such as a node's of a running cluster, or CoreDNS
// (test/peers/coredns). It must know the services svc-0 to svc-999 of namespace ns.
var other = flag.String("dns.server", "", "address:port of a running name server to measure (BenchmarkServer)")

// BenchmarkServer is BenchmarkUDP for a server that runs already.
func BenchmarkServer(b *testing.B) {
	if *other == "" {
		b.Skip("no -dns.server")
	}
	at, err := netip.ParseAddrPort(*other)
	if err != nil {
		b.Fatal(err)
	}
	for _, load := range []struct{ clients, window int }{{1, 1}, {2, 32}} {
		b.Run(fmt.Sprintf("clients=%d/window=%d", load.clients, load.window), func(b *testing.B) {
			Load(b, at, load.clients, load.window, func(i int) string { return fmt.Sprintf("svc-%d.ns.svc.cluster.local.", i%1000) })
		})
	}
}

func run(b *testing.B, clients, window int) {
	r := start(b, nil, freePort(b), snapshot(10_000), 0)
	Load(b, r.at, clients, window, func(i int) string { return fmt.Sprintf("svc-%d.ns.svc.cluster.local.", i%10_000) })
}

// client keeps so many questions under way while more says so, and returns what each took.
func client(at netip.AddrPort, window int, questions [][]byte, more func() bool) (took []time.Duration, err error) {
	udp, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	defer udp.Close()
	conn := ipv4.NewPacketConn(udp)
	out, in := make([]ipv4.Message, window), make([]ipv4.Message, window)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for turn := 0; more(); turn++ {
		for i := range out {
			out[i].Buffers = [][]byte{questions[(turn*window+i)%len(questions)]}
		}
		began := time.Now()
		for sent := 0; sent < window; {
			n, err := conn.WriteBatch(out[sent:], 0)
			if err != nil {
				return took, err
			}
			sent += n
		}
		for left := window; left > 0; {
			if err := udp.SetReadDeadline(began.Add(10 * time.Second)); err != nil {
				return took, err
			}
			n, err := conn.ReadBatch(in[:left], 0)
			if err != nil {
				return took, fmt.Errorf("%d of %d answers: %w", window-left, window, err)
			}
			for i := range in[:n] {
				if in[i].N < 12 || in[i].Buffers[0][7] != 1 {
					return took, fmt.Errorf("no answer: %x", in[i].Buffers[0][:in[i].N])
				}
				took = append(took, time.Since(began))
			}
			left -= n
		}
	}
	return took, nil
}

// Load asks b.N questions by so many clients, each with so many under way.
func Load(b *testing.B, at netip.AddrPort, clients, window int, name func(int) string) {
	var next atomic.Int64
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	var questions [][]byte
	for i := range 1000 {
		m := new(dns.Msg).SetQuestion(name(i*7), dns.TypeA)
		m.SetEdns0(1232, false)
		raw, err := m.Pack()
		if err != nil {
			b.Fatal(err)
		}
		questions = append(questions, raw)
	}
	before := spent()
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			took, err := client(at, window, questions, func() bool { return next.Add(int64(window)) <= int64(b.N)+int64(window)-1 })
			if err != nil {
				b.Error(err)
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	wg.Wait()
	b.StopTimer()
	if len(all) == 0 {
		b.Fatal("nothing was answered")
	}
	slices.Sort(all)
	b.ReportMetric(float64((spent()-before).Microseconds())/float64(len(all)), "cpu-us/answer")
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "answers/s")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
}
