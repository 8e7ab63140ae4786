package dns

import (
	"bytes"
	"fmt"
	"math/rand"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// sameAnswer holds what quick writes against what answer does.
func sameAnswer(t testing.TB, z *Zone, raw []byte, who *Asker, limit int) {
	t.Helper()
	fast := z.quick(raw, who, limit, nil)
	if fast == nil {
		return
	}
	slow, e := z.answer(raw, who, limit, nil)
	if e != nil || slow == nil {
		t.Fatalf("%x: quick answers %x, the whole way says %x and %+v", raw, fast, slow, e)
	}
	var a, b dns.Msg
	if err := a.Unpack(fast); err != nil {
		t.Fatalf("%x: quick answers nonsense %x: %v", raw, fast, err)
	}
	if err := b.Unpack(slow); err != nil {
		t.Fatal(err)
	}
	a.Compress, b.Compress = false, false
	if d := cmp.Diff(b.String(), a.String()); d != "" {
		t.Fatalf("%x (-whole +quick):\n%s", raw, d)
	}
}

// TestQuickIsRight: the short way answers as the long one does, whatever is asked.
func TestQuickIsRight(t *testing.T) {
	z := world()
	who := &Asker{Searches: []string{"shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "corp.example."}}
	labels := rapid.SampledFrom([]string{"kubernetes", "default", "svc", "shop", "db", "db-0", "dual", "quiet", "out", "in", "pod", "10-244-9-9",
		"dns", "ns", "dns-version", "_sql", "_tcp", "cluster", "local", "KuberNetes", "DEFAULT", "x", "number"})
	quick := 0
	rapid.Check(t, func(rt *rapid.T) {
		name := strings.Join(rapid.SliceOfN(labels, 0, 5).Draw(rt, "labels"), ".")
		name = strings.TrimPrefix(name+rapid.SampledFrom([]string{".", ".cluster.local.", ".svc.cluster.local.", ".svc.CLUSTER.local."}).Draw(rt, "end"), ".")
		if name == "" {
			name = "."
		}
		m := new(dns.Msg).SetQuestion(name, rapid.SampledFrom([]uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeANY}).Draw(rt, "type"))
		m.Id = rapid.Uint16().Draw(rt, "id")
		m.RecursionDesired, m.CheckingDisabled = rapid.Bool().Draw(rt, "rd"), rapid.Bool().Draw(rt, "cd")
		if rapid.Bool().Draw(rt, "edns") {
			m.SetEdns0(rapid.Uint16().Draw(rt, "size"), rapid.Bool().Draw(rt, "do"))
		}
		raw, err := m.Pack()
		if err != nil {
			rt.Skip()
		}
		asker := rapid.SampledFrom([]*Asker{nil, who}).Draw(rt, "who")
		limit := rapid.SampledFrom([]int{0, LargestMessage}).Draw(rt, "limit")
		if z.quick(raw, asker, limit, nil) != nil {
			quick++
		}
		sameAnswer(t, z, raw, asker, limit)
	})
	if quick == 0 {
		t.Error("nothing was answered the short way")
	}
}

// poke asks a zone something and holds what must be true of any answer.
func poke(t testing.TB, z *Zone, raw []byte) {
	t.Helper()
	who := &Asker{Searches: []string{"shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "corp.example."}}
	for _, limit := range []int{0, LargestMessage} {
		sameAnswer(t, z, raw, who, limit)
		reply, e := z.Answer(raw, who, limit, make([]byte, 0, 64))
		if e != nil {
			if reply != nil {
				t.Fatalf("%x: an answer and an errand", raw)
			}
			reply = e.Finish(e.Names[0], nil, nil)
		}
		if reply == nil {
			if len(raw) >= headerSize && raw[2]&0x80 == 0 {
				t.Fatalf("%x: a question is not answered", raw)
			}
			continue
		}
		most := LargestDatagram
		if limit != 0 {
			most = limit
		}
		var m dns.Msg
		if err := m.Unpack(reply); err != nil || !m.Response || len(reply) > most || !bytes.Equal(reply[:2], raw[:2]) {
			t.Fatalf("%x is answered with %x: %v", raw, reply, err)
		}
	}
}

// damaged returns n messages that are nearly right, the same ones each time.
func damaged(n int) [][]byte {
	random := rand.New(rand.NewSource(1)) //nolint:gosec // the same every time
	var out [][]byte
	for i := range n {
		m := new(dns.Msg).SetQuestion([]string{"db.shop.svc.cluster.local.", "a.example.", "1.0.96.10.in-addr.arpa."}[i%3], uint16(random.Intn(260)))
		if i%2 == 0 {
			m.SetEdns0(uint16(random.Intn(65536)), i%4 == 0)
		}
		raw, _ := m.Pack()
		for range random.Intn(4) {
			switch at := random.Intn(len(raw)); random.Intn(3) {
			case 0:
				raw[at] ^= 1 << random.Intn(8)
			case 1:
				raw = raw[:at+1]
			default:
				raw = append(raw[:at:at], append([]byte{byte(random.Intn(256))}, raw[at:]...)...)
			}
		}
		out = append(out, raw)
	}
	return out
}

// TestDamagedMessages is FuzzAnswer in short, the same every time.
func TestDamagedMessages(t *testing.T) {
	z := world()
	for _, raw := range damaged(20_000) {
		poke(t, z, raw)
	}
	for _, raw := range [][]byte{nil, {0}, make([]byte, 11), make([]byte, 12), bytes.Repeat([]byte{0xc0}, 600), bytes.Repeat([]byte{0xff}, 4096)} {
		poke(t, z, raw)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, raw := range damaged(50) {
		f.Add(raw)
	}
	z := world()
	f.Fuzz(func(t *testing.T, raw []byte) { poke(t, z, raw) })
}

func TestRefusals(t *testing.T) {
	z := world()
	for name, tt := range map[string]struct {
		change func(*dns.Msg)
		want   int
	}{
		"update":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"notify":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"transfer":      {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		"chaos":         {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"an answer":     {func(m *dns.Msg) { m.Answer = addresses("x.", 1, ownMachine[:1]) }, dns.RcodeFormatError},
		"EDNS 1":        {func(m *dns.Msg) { m.SetEdns0(1232, false).IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		m := new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeA)
		tt.change(m)
		raw, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		reply, e := z.Answer(raw, nil, 0, nil)
		var got dns.Msg
		if err := got.Unpack(reply); err != nil || e != nil || got.Rcode != tt.want || got.Id != m.Id {
			t.Errorf("%s: %v %v, want %s", name, err, &got, dns.RcodeToString[tt.want])
		}
	}
	m := new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeA)
	m.Response = true
	raw, _ := m.Pack()
	if reply, e := z.Answer(raw, nil, 0, nil); reply != nil || e != nil {
		t.Error("a response is answered")
	}
}

// TestTruncation: what does not fit is cut at whole records and says so, and fits by TCP.
func TestTruncation(t *testing.T) {
	z := empty()
	z.SetService(aService("shop", "big", at("None")))
	var list []string
	for i := range 300 {
		list = append(list, fmt.Sprintf("10.244.%d.%d", i/200, i%200+2))
	}
	z.SetSlice(slice("shop", "big", "big-a", nil, list...))
	for name, tt := range map[string]struct {
		edns, limit, most, least int
		cut                      bool
	}{
		"plain":       {0, 0, 512, 28, true},
		"small EDNS":  {100, 0, 512, 26, true},
		"EDNS":        {1000, 0, 1000, 55, true},
		"greedy EDNS": {65535, 0, LargestDatagram, 70, true},
		"TCP":         {0, LargestMessage, LargestMessage, 300, false},
	} {
		m := new(dns.Msg).SetQuestion("big.shop.svc.cluster.local.", dns.TypeA)
		if tt.edns != 0 {
			m.SetEdns0(uint16(tt.edns), false)
		}
		raw, _ := m.Pack()
		reply, _ := z.Answer(raw, nil, tt.limit, nil)
		var got dns.Msg
		if err := got.Unpack(reply); err != nil || len(reply) > tt.most || got.Truncated != tt.cut || len(got.Answer) < tt.least {
			t.Errorf("%s: %d bytes, %d records, truncated %v: %v", name, len(reply), len(got.Answer), got.Truncated, err)
		}
		if (tt.edns != 0) != (got.IsEdns0() != nil) {
			t.Errorf("%s: EDNS %v", name, got.IsEdns0())
		}
	}
}

func searching() *Asker {
	return &Asker{Searches: []string{"shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "corp.example."}}
}

// TestSearchList: a name outside the cluster is found by the first question of a resolver that tries the search list.
func TestSearchList(t *testing.T) {
	z := world()
	for name, want := range map[string]string{
		"www.example.com.shop.svc.cluster.local.":             "ask www.example.com.corp.example. www.example.com.",
		"WWW.Example.com.shop.svc.cluster.local.":             "ask www.example.com.corp.example. www.example.com.",
		"kubernetes.default.shop.svc.cluster.local.":          "NOERROR kubernetes.default.shop.svc/0/CNAME=kubernetes.default.svc.cluster.local. kubernetes.default.svc/5/A=10.96.0.1",
		"dual.shop.svc.shop.svc.cluster.local.":               "NOERROR dual.shop.svc.shop.svc/0/CNAME=dual.shop.svc.cluster.local. dual.shop.svc/5/A=10.96.0.7",
		"out.shop.svc.shop.svc.cluster.local.":                "ask www.example.com.",
		"db.shop.svc.cluster.local.":                          "NOERROR db.shop.svc/1/A=10.244.0.10 db.shop.svc/1/A=10.244.1.10 db.shop.svc/1/A=10.244.2.10",
		"db-3.db.shop.svc.cluster.local.":                     "NXDOMAIN ; " + denied, // of a service that there is
		"quiet.shop.svc.cluster.local.":                       "NXDOMAIN ; " + denied,
		"intranet.shop.svc.cluster.local.":                    "ask intranet.corp.example. intranet.",
		"www.example.com.svc.cluster.local.":                  "NXDOMAIN ; " + denied, // not the first of the list
		"www.example.com.other.svc.cluster.local.":            "NXDOMAIN ; " + denied,
		"shop.svc.cluster.local.":                             "NOERROR ; " + denied,
		strings.Repeat("a.", 115) + "shop.svc.cluster.local.": "ask " + strings.Repeat("a.", 115) + "corp.example. " + strings.Repeat("a.", 115),
	} {
		if got := ask(t, z, searching(), name, dns.TypeA); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	alone := &Asker{Searches: searching().Searches[:3]}
	if got := ask(t, z, alone, "intranet.shop.svc.cluster.local.", dns.TypeA); got != "NXDOMAIN ; "+denied {
		t.Error("a name of one label is nobody's outside:", got)
	}
	if got := ask(t, z, &Asker{Searches: []string{"corp.example.", "shop.svc.cluster.local."}}, "a.b.corp.example.", dns.TypeA); got != "ask a.b.corp.example." {
		t.Error("a list that begins elsewhere:", got)
	}
}

// errandOf asks what others have to be asked for.
func errandOf(t testing.TB, z *Zone, who *Asker, name string, qtype uint16) *Errand {
	t.Helper()
	raw, err := new(dns.Msg).SetQuestion(name, qtype).Pack()
	if err != nil {
		t.Fatal(err)
	}
	_, e := z.Answer(raw, who, 0, nil)
	if e == nil {
		t.Fatalf("%s: others are not asked", name)
	}
	return e
}

func found(name string, rcode int, addrs ...string) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.Response, m.Rcode = true, rcode
	for _, a := range addrs {
		m.Answer = append(m.Answer, addresses(name, 60, []netip.Addr{netip.MustParseAddr(a)})...)
	}
	if len(addrs) == 0 {
		m.Ns = []dns.RR{&dns.SOA{Hdr: head("example.com.", dns.TypeSOA, 30), Ns: "ns.", Mbox: "m.", Serial: 1, Minttl: 20}}
	}
	return m
}

func TestFinish(t *testing.T) {
	z := world()
	const outside = "www.example.com."
	for name, tt := range map[string]struct {
		e     *Errand
		found *dns.Msg
		want  string
	}{
		"outside":          {errandOf(t, z, nil, "WWW.example.com.", dns.TypeA), found(outside, 0, "192.0.2.1"), "NOERROR WWW.example.com./60/A=192.0.2.1"},
		"outside denied":   {errandOf(t, z, nil, outside, dns.TypeA), found(outside, dns.RcodeNameError), "NXDOMAIN ; example.com./30/SOA=1"},
		"outside away":     {errandOf(t, z, nil, outside, dns.TypeA), nil, "SERVFAIL"},
		"alias":            {errandOf(t, z, nil, "out.shop.svc.cluster.local.", dns.TypeA), found(outside, 0, "192.0.2.1"), "NOERROR out.shop.svc/5/CNAME=www.example.com. www.example.com./60/A=192.0.2.1"},
		"alias denied":     {errandOf(t, z, nil, "out.shop.svc.cluster.local.", dns.TypeA), found(outside, dns.RcodeNameError), "NXDOMAIN out.shop.svc/5/CNAME=www.example.com. ; example.com./30/SOA=1"},
		"alias away":       {errandOf(t, z, nil, "out.shop.svc.cluster.local.", dns.TypeA), nil, "SERVFAIL out.shop.svc/5/CNAME=www.example.com."},
		"searched":         {errandOf(t, z, searching(), outside+"shop.svc.cluster.local.", dns.TypeA), found(outside, 0, "192.0.2.1"), "NOERROR www.example.com.shop.svc/60/CNAME=www.example.com. www.example.com./60/A=192.0.2.1"},
		"searched no data": {errandOf(t, z, searching(), outside+"shop.svc.cluster.local.", dns.TypeA), found(outside, 0), "NOERROR www.example.com.shop.svc/0/CNAME=www.example.com. ; example.com./30/SOA=1"},
		"searched denied":  {errandOf(t, z, searching(), outside+"shop.svc.cluster.local.", dns.TypeA), found(outside, dns.RcodeNameError), "NXDOMAIN ; " + denied},
		"searched failed":  {errandOf(t, z, searching(), outside+"shop.svc.cluster.local.", dns.TypeA), found(outside, dns.RcodeServerFailure), "NXDOMAIN ; " + denied},
		"searched away":    {errandOf(t, z, searching(), outside+"shop.svc.cluster.local.", dns.TypeA), nil, "NXDOMAIN ; " + denied},
	} {
		if got := show(t, tt.e.Finish(outside, tt.found, nil), ""); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tt.want)
		}
	}
}

func TestRoutes(t *testing.T) {
	r, err := ParseRoutes("corp.Example=10.0.0.53, sub.corp.example.=10.0.0.54:5353;[fd00::53]:53, .=192.0.2.53")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a.corp.example.": "[10.0.0.53:53]", "corp.example.": "[10.0.0.53:53]", "x.sub.corp.example.": "[10.0.0.54:5353 [fd00::53]:53]",
		"notcorp.example.": "[192.0.2.53:53]", ".": "[192.0.2.53:53]",
	} {
		if got := fmt.Sprint(r.For(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for _, bad := range []string{"corp", "corp=", "=10.0.0.1", "a..b=10.0.0.1", "corp=server", "corp=10.0.0.1:0", "corp=10.0.0.1,corp.=10.0.0.2"} {
		if _, err := ParseRoutes(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	servers, own := ServersIn("# nameserver 1.1.1.1\nnameserver 10.0.0.1\nnameserver 10.244.0.1\nnameserver fe80::1%eth0\nsearch x\nnameserver nonsense\n",
		func(a netip.Addr) bool { return a == gateway })
	if fmt.Sprint(servers, own) != "[10.0.0.1:53 [fe80::1%eth0]:53] [10.244.0.1]" {
		t.Error(servers, own)
	}
}

func benchmark(b *testing.B, name string, qtype uint16) {
	z := empty()
	for i := range 10_000 {
		z.SetService(aService(fmt.Sprintf("ns-%d", i%100), fmt.Sprintf("svc-%d", i), at(fmt.Sprintf("10.96.%d.%d", i/250, i%250+1))))
	}
	z.SetService(aService("shop", "db", at("None")))
	z.SetSlice(slice("shop", "db", "db-a", nil, "10.244.0.10@db-0", "10.244.1.10@db-1", "10.244.2.10@db-2"))
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.SetEdns0(1232, false)
	raw, _ := m.Pack()
	out := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if reply, _ := z.Answer(raw, nil, 0, out); reply == nil {
			b.Fatal("no answer")
		}
	}
}

func BenchmarkClusterIP(b *testing.B) { benchmark(b, "svc-77.ns-77.svc.cluster.local.", dns.TypeA) }
func BenchmarkNoData(b *testing.B)    { benchmark(b, "svc-77.ns-77.svc.cluster.local.", dns.TypeAAAA) }
func BenchmarkHeadless(b *testing.B)  { benchmark(b, "db.shop.svc.cluster.local.", dns.TypeA) }
func BenchmarkPeer(b *testing.B)      { benchmark(b, "db-1.db.shop.svc.cluster.local.", dns.TypeA) }
func BenchmarkDenied(b *testing.B)    { benchmark(b, "nobody.shop.svc.cluster.local.", dns.TypeA) }
func BenchmarkPointer(b *testing.B)   { benchmark(b, "1.0.96.10.in-addr.arpa.", dns.TypePTR) }

// BenchmarkSetSlice is one endpoint's change among a hundred.
func BenchmarkSetSlice(b *testing.B) {
	z := world()
	var list []string
	for i := range 100 {
		list = append(list, fmt.Sprintf("10.244.9.%d@p-%d", i+2, i))
	}
	s := slice("shop", "db", "db-z", nil, list...)
	b.ReportAllocs()
	for b.Loop() {
		z.SetSlice(s)
	}
}
