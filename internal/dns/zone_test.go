package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var gateway = netip.MustParseAddr("10.244.0.1")

func empty() *Zone {
	return New(Config{
		Domain:  "Cluster.Local",
		Ranges:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00::/48")},
		Servers: []netip.Addr{gateway},
	})
}

func aService(namespace, name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for _, f := range change {
		f(s)
	}
	return s
}

func at(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = ips[0], ips }
}

func ports(list ...corev1.ServicePort) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports = list }
}

func named(name string, protocol corev1.Protocol, number int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: protocol, Port: number}
}

// slice makes a slice of endpoints, each written as address, address@host, or either with ! before it when not ready.
func slice(namespace, of, name string, ports []discoveryv1.EndpointPort, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: of}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: ports,
	}
	for _, text := range endpoints {
		ready := text[0] != '!'
		addr, host, has := strings.Cut(strings.TrimPrefix(text, "!"), "@")
		e := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
		if has {
			e.Hostname = &host
		}
		if strings.Contains(addr, ":") {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func slicePort(name string, number int32) []discoveryv1.EndpointPort {
	tcp := corev1.ProtocolTCP
	return []discoveryv1.EndpointPort{{Name: &name, Port: &number, Protocol: &tcp}}
}

// world is a zone with one of each.
func world() *Zone {
	z := empty()
	z.SetService(aService("default", "kubernetes", at("10.96.0.1"), ports(named("https", corev1.ProtocolTCP, 443))))
	z.SetService(aService("shop", "dual", at("10.96.0.7", "fd00::7"), ports(named("", "", 80), named("dns", corev1.ProtocolUDP, 53))))
	z.SetSlice(slice("shop", "dual", "dual-a", slicePort("", 80), "10.244.0.5@named", "10.244.0.6"))
	z.SetService(aService("shop", "db", at("None"), ports(named("sql", "", 5432))))
	z.SetSlice(slice("shop", "db", "db-a", slicePort("sql", 5432), "10.244.0.10@db-0", "10.244.1.10@db-1", "10.244.2.10", "!10.244.3.10@db-3"))
	z.SetSlice(slice("shop", "db", "db-b", slicePort("sql", 5433), "fd00::10@db-0"))
	z.SetService(aService("shop", "quiet", at("None"), ports(named("sql", "", 5432))))
	z.SetSlice(slice("shop", "quiet", "quiet-a", slicePort("sql", 5432), "!10.244.0.20@quiet-0"))
	z.SetService(aService("shop", "eager", at("None"), func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }))
	z.SetSlice(slice("shop", "eager", "eager-a", nil, "!10.244.0.21@eager-0"))
	external := func(target string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, target
		}
	}
	z.SetService(aService("shop", "out", external("www.example.com")))
	z.SetService(aService("shop", "in", external("kubernetes.default.svc.cluster.local")))
	z.SetService(aService("shop", "in2", external("in.shop.svc.cluster.local.")))
	z.SetService(aService("shop", "lost", external("nobody.shop.svc.cluster.local")))
	z.SetService(aService("shop", "round", external("trip.shop.svc.cluster.local")))
	z.SetService(aService("shop", "trip", external("round.shop.svc.cluster.local")))
	z.SetService(aService("shop", "number", external("192.0.2.9")))
	z.SetSlice(slice("shop", "orphan", "orphan-a", nil, "10.244.0.30"))
	z.Saw(4711)
	return z
}

// ask asks a zone and writes what it says in one line: the code, the records, and after ; those of the authority and + what helps.
func ask(t testing.TB, z *Zone, who *Asker, name string, qtype uint16) string {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.Id = 0
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply, e := z.Answer(raw, who, LargestMessage, nil)
	if e != nil {
		return "ask " + strings.Join(e.Names, " ")
	}
	return show(t, reply, name)
}

func show(t testing.TB, reply []byte, name string) string {
	t.Helper()
	got := new(dns.Msg)
	if err := got.Unpack(reply); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if name != "" && got.Question[0].Name != name {
		t.Errorf("asked for %s, answered for %s", name, got.Question[0].Name)
	}
	out := dns.RcodeToString[got.Rcode]
	if got.Truncated {
		out += " TC"
	}
	for _, rr := range got.Answer {
		out += " " + brief(rr)
	}
	for _, rr := range got.Ns {
		out += " ; " + brief(rr)
	}
	for _, rr := range got.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			out += " + " + brief(rr)
		}
	}
	return out
}

func brief(rr dns.RR) string {
	h := rr.Header()
	value := strings.TrimPrefix(rr.String(), h.String())
	if h.Rrtype == dns.TypeSOA {
		value = strings.Fields(value)[2]
	}
	return fmt.Sprintf("%s/%d/%s=%s", strings.TrimSuffix(h.Name, ".cluster.local."), h.Ttl, dns.TypeToString[h.Rrtype], strings.ReplaceAll(value, " ", ","))
}

const denied = "cluster.local./0/SOA=4711"

func TestSpecification(t *testing.T) {
	z := world()
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		// 2.2
		{"dns-version", dns.TypeTXT, `NOERROR dns-version/28800/TXT="1.1.0"`},
		{"dns-version", dns.TypeA, "NOERROR ; " + denied},
		// 2.3.1
		{"kubernetes.default.svc", dns.TypeA, "NOERROR kubernetes.default.svc/5/A=10.96.0.1"},
		{"kubernetes.default.svc", dns.TypeAAAA, "NOERROR ; " + denied},
		{"KUBERNETES.Default.SVC", dns.TypeA, "NOERROR KUBERNETES.Default.SVC/5/A=10.96.0.1"},
		{"dual.shop.svc", dns.TypeA, "NOERROR dual.shop.svc/5/A=10.96.0.7"},
		{"dual.shop.svc", dns.TypeAAAA, "NOERROR dual.shop.svc/5/AAAA=fd00::7"},
		{"dual.shop.svc", dns.TypeMX, "NOERROR ; " + denied},
		{"dual.shop.svc", dns.TypeANY, "NOERROR dual.shop.svc/5/A=10.96.0.7 dual.shop.svc/5/AAAA=fd00::7"},
		{"dual.default.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"nobody.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"nobody.shop.svc", dns.TypeSRV, "NXDOMAIN ; " + denied},
		{"orphan.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"named.dual.shop.svc", dns.TypeA, "NOERROR named.dual.shop.svc/1/A=10.244.0.5"},
		{"10-244-0-6.dual.shop.svc", dns.TypeA, "NOERROR 10-244-0-6.dual.shop.svc/1/A=10.244.0.6"},
		{"other.dual.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"a.named.dual.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		// 2.3.2
		{"_https._tcp.kubernetes.default.svc", dns.TypeSRV, "NOERROR _https._tcp.kubernetes.default.svc/5/SRV=0,100,443,kubernetes.default.svc.cluster.local. + kubernetes.default.svc/5/A=10.96.0.1"},
		{"_HTTPS._TCP.kubernetes.default.svc", dns.TypeSRV, "NOERROR _HTTPS._TCP.kubernetes.default.svc/5/SRV=0,100,443,kubernetes.default.svc.cluster.local. + kubernetes.default.svc/5/A=10.96.0.1"},
		{"_https._udp.kubernetes.default.svc", dns.TypeSRV, "NXDOMAIN ; " + denied},
		{"_http._tcp.kubernetes.default.svc", dns.TypeSRV, "NXDOMAIN ; " + denied},
		{"_https._tcp.kubernetes.default.svc", dns.TypeA, "NOERROR ; " + denied},
		{"_tcp.kubernetes.default.svc", dns.TypeSRV, "NOERROR ; " + denied},
		{"_udp.kubernetes.default.svc", dns.TypeSRV, "NXDOMAIN ; " + denied},
		{"_nonsense.kubernetes.default.svc", dns.TypeSRV, "NXDOMAIN ; " + denied},
		{"_dns._udp.dual.shop.svc", dns.TypeSRV, "NOERROR _dns._udp.dual.shop.svc/5/SRV=0,100,53,dual.shop.svc.cluster.local. + dual.shop.svc/5/A=10.96.0.7 + dual.shop.svc/5/AAAA=fd00::7"},
		{"_tcp.dual.shop.svc", dns.TypeSRV, "NXDOMAIN ; " + denied}, // its TCP port has no name
		// 2.4.1
		{"db.shop.svc", dns.TypeA, "NOERROR db.shop.svc/1/A=10.244.0.10 db.shop.svc/1/A=10.244.1.10 db.shop.svc/1/A=10.244.2.10"},
		{"db.shop.svc", dns.TypeAAAA, "NOERROR db.shop.svc/1/AAAA=fd00::10"},
		{"db-0.db.shop.svc", dns.TypeA, "NOERROR db-0.db.shop.svc/1/A=10.244.0.10"},
		{"db-0.db.shop.svc", dns.TypeAAAA, "NOERROR db-0.db.shop.svc/1/AAAA=fd00::10"},
		{"db-1.db.shop.svc", dns.TypeAAAA, "NOERROR ; " + denied},
		{"db-3.db.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"10-244-2-10.db.shop.svc", dns.TypeA, "NOERROR 10-244-2-10.db.shop.svc/1/A=10.244.2.10"},
		{"10-244-0-10.db.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied}, // it has a host name
		{"quiet.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"quiet-0.quiet.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"eager.shop.svc", dns.TypeA, "NOERROR eager.shop.svc/1/A=10.244.0.21"},
		{"eager-0.eager.shop.svc", dns.TypeA, "NOERROR eager-0.eager.shop.svc/1/A=10.244.0.21"},
		// 2.4.2
		{"_sql._tcp.db.shop.svc", dns.TypeSRV, "NOERROR" +
			" _sql._tcp.db.shop.svc/1/SRV=0,25,5432,10-244-2-10.db.shop.svc.cluster.local. _sql._tcp.db.shop.svc/1/SRV=0,25,5432,db-0.db.shop.svc.cluster.local." +
			" _sql._tcp.db.shop.svc/1/SRV=0,25,5432,db-1.db.shop.svc.cluster.local. _sql._tcp.db.shop.svc/1/SRV=0,25,5433,db-0.db.shop.svc.cluster.local." +
			" + 10-244-2-10.db.shop.svc/1/A=10.244.2.10 + db-0.db.shop.svc/1/A=10.244.0.10 + db-0.db.shop.svc/1/AAAA=fd00::10 + db-1.db.shop.svc/1/A=10.244.1.10"},
		{"_sql._tcp.quiet.shop.svc", dns.TypeSRV, "NXDOMAIN ; " + denied},
		// 2.5
		{"out.shop.svc", dns.TypeCNAME, "NOERROR out.shop.svc/5/CNAME=www.example.com."},
		{"out.shop.svc", dns.TypeA, "ask www.example.com."},
		{"x.out.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"in.shop.svc", dns.TypeA, "NOERROR in.shop.svc/5/CNAME=kubernetes.default.svc.cluster.local. kubernetes.default.svc/5/A=10.96.0.1"},
		{"in2.shop.svc", dns.TypeA, "NOERROR in2.shop.svc/5/CNAME=in.shop.svc.cluster.local. in.shop.svc/5/CNAME=kubernetes.default.svc.cluster.local. kubernetes.default.svc/5/A=10.96.0.1"},
		{"in.shop.svc", dns.TypeAAAA, "NOERROR in.shop.svc/5/CNAME=kubernetes.default.svc.cluster.local. ; " + denied},
		{"lost.shop.svc", dns.TypeA, "NXDOMAIN lost.shop.svc/5/CNAME=nobody.shop.svc.cluster.local. ; " + denied},
		{"number.shop.svc", dns.TypeA, "NOERROR number.shop.svc/5/A=192.0.2.9"},
		// 2.6
		{"10-244-9-9.shop.pod", dns.TypeA, "NOERROR 10-244-9-9.shop.pod/5/A=10.244.9.9"},
		{"10-244-9-9.shop.pod", dns.TypeAAAA, "NOERROR ; " + denied},
		{"fd00--9.shop.pod", dns.TypeAAAA, "NOERROR fd00--9.shop.pod/5/AAAA=fd00::9"},
		{"192-0-2-1.shop.pod", dns.TypeA, "NXDOMAIN ; " + denied},
		{"a-b-c-d.shop.pod", dns.TypeA, "NXDOMAIN ; " + denied},
		{"x.10-244-9-9.shop.pod", dns.TypeA, "NXDOMAIN ; " + denied},
		// The tree between.
		{"svc", dns.TypeA, "NOERROR ; " + denied},
		{"pod", dns.TypeA, "NOERROR ; " + denied},
		{"shop.svc", dns.TypeA, "NOERROR ; " + denied},
		{"nowhere.svc", dns.TypeA, "NXDOMAIN ; " + denied},
		{"other", dns.TypeA, "NXDOMAIN ; " + denied},
		{"any.shop.svc", dns.TypeA, "NXDOMAIN ; " + denied}, // no wildcards since 1.1
		{`a\.b.shop.svc`, dns.TypeA, "NXDOMAIN ; " + denied},
		{"ns.dns", dns.TypeA, "NOERROR ns.dns/5/A=10.244.0.1"},
	} {
		if got := ask(t, z, nil, tt.name+".cluster.local.", tt.qtype); got != tt.want {
			t.Errorf("%s %s:\n got %s\nwant %s", dns.TypeToString[tt.qtype], tt.name, got, tt.want)
		}
	}
	if got := ask(t, z, nil, "cluster.local.", dns.TypeNS); !strings.HasSuffix(got, "NS=ns.dns.cluster.local.") {
		t.Error(got)
	}
	if got := ask(t, z, nil, "round.shop.svc.cluster.local.", dns.TypeA); !strings.HasPrefix(got, "NOERROR round.shop.svc/5/CNAME=trip") {
		t.Error("a chain that leads round is cut:", got)
	}
}

func TestReverse(t *testing.T) {
	z := world()
	z.SetService(aService("zoo", "also", at("None")))
	z.SetSlice(slice("zoo", "also", "also-a", nil, "10.244.0.10", "10.244.0.10@x"))
	for addr, want := range map[string]string{
		"10.96.0.1":   "NOERROR PTR=kubernetes.default.svc.cluster.local.",
		"fd00::7":     "NOERROR PTR=dual.shop.svc.cluster.local.",
		"fd00::10":    "NOERROR PTR=db-0.db.shop.svc.cluster.local.",
		"10.244.0.10": "NOERROR PTR=db-0.db.shop.svc.cluster.local. PTR=x.also.zoo.svc.cluster.local. PTR=10-244-0-10.also.zoo.svc.cluster.local.",
		"10.244.2.10": "NOERROR PTR=10-244-2-10.db.shop.svc.cluster.local.",
		"10.244.3.10": "NXDOMAIN", // not ready
		"10.244.9.9":  "NXDOMAIN",
		"192.0.2.1":   "ask",
		"2001:db8::1": "ask",
	} {
		name, err := dns.ReverseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		got := ask(t, z, nil, name, dns.TypePTR)
		got = strings.ReplaceAll(got, name+"/5/", "")
		if got, _, _ = strings.Cut(got, " ;"); strings.HasPrefix(got, "ask") {
			got = "ask"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	if got := ask(t, z, nil, "1.0.96.10.in-addr.arpa.", dns.TypeA); !strings.HasPrefix(got, "NOERROR ;") {
		t.Error("another type than PTR:", got)
	}
}

// TestChanges: after any order of changes the zone is the one that the last snapshot makes.
func TestChanges(t *testing.T) {
	z := world()
	z.SetService(aService("shop", "db", at("10.96.0.8"))) // headless no more
	if got := ask(t, z, nil, "10.0.244.10.in-addr.arpa.", dns.TypePTR); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Error(got)
	}
	z.SetService(aService("shop", "db", at("None")))
	if got := ask(t, z, nil, "10.0.244.10.in-addr.arpa.", dns.TypePTR); !strings.Contains(got, "db-0.db") {
		t.Error(got)
	}
	z.SetService(aService("shop", "eager", at("None")))
	if got := ask(t, z, nil, "eager.shop.svc.cluster.local.", dns.TypeA); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Error("unready addresses are still published:", got)
	}
	moved := slice("shop", "orphan", "db-a", nil, "10.244.0.10@db-0")
	z.SetSlice(moved)
	if got := ask(t, z, nil, "db.shop.svc.cluster.local.", dns.TypeA); got != "NOERROR ; "+denied {
		t.Error("a slice that went to another service:", got)
	}
	for k := range world().services {
		z.DeleteService(k)
	}
	for k := range world().owners {
		z.DeleteSlice(k)
	}
	z.DeleteSlice(Key{"shop", "never"})
	z.DeleteService(Key{"shop", "never"})
	if len(z.services)+len(z.owners)+len(z.spaces)+len(z.clusterIPs)+len(z.endpoints) != 0 || z.Services() != 0 {
		t.Errorf("an empty cluster leaves %+v", z)
	}
}

// TestSpread: clients that take the first address of a list do not all take the same.
func TestSpread(t *testing.T) {
	z := world()
	first := map[string]int{}
	for id := range 300 {
		m := new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeA)
		m.Id = uint16(id)
		raw, _ := m.Pack()
		reply, _ := z.Answer(raw, nil, 0, nil)
		first[strings.Fields(show(t, reply, ""))[1]]++
	}
	if len(first) != 3 || slices.Max([]int{first["db.shop.svc/1/A=10.244.0.10"], first["db.shop.svc/1/A=10.244.1.10"], first["db.shop.svc/1/A=10.244.2.10"]}) > 101 {
		t.Error(first)
	}
}
