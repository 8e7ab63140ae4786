package names

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	clientfake "coracle/internal/client/fake"
	"coracle/internal/filetree/scratch"
	"coracle/internal/node/events"
	"coracle/internal/node/snapshot"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// loopRange is a pod range whose first address the machine has without a bridge: each process has its own.
func loopRange() string {
	return fmt.Sprintf("127.%d.%d.0/24", 2+os.Getpid()>>8%200, os.Getpid()&0xff)
}

// answering runs the name server of a node whose snapshot is kept in a directory, until the function returned is called.
func answering(t *testing.T, dir string, seen *view.View) (*Server, func()) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cache, err := snapshot.OpenCache(dir, seen, log)
	if err != nil {
		t.Fatal(err)
	}
	n := New(Config{}, Node{
		Name: "one", Domain: "cluster.local", Snapshot: seen, Events: events.New(clientfake.New(), "one", log, nil), Log: log,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { n.Run(ctx); done <- struct{}{} }()
	go func() { cache.Run(ctx); done <- struct{}{} }()
	return n, func() { cancel(); <-done; <-done }
}

// withRange is the node with a pod range.
func withRange(cidr string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.NodeSpec{PodCIDR: cidr}}
}

// resolve asks a server until it answers, and returns the answer's code and addresses.
func resolve(t *testing.T, at string, name string) string {
	t.Helper()
	c := dns.Client{Timeout: 200 * time.Millisecond}
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		var m *dns.Msg
		if m, _, err = c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), at+":53"); err == nil {
			out := dns.RcodeToString[m.Rcode]
			for _, rr := range m.Answer {
				if a, is := rr.(*dns.A); is {
					out += " " + a.A.String()
				}
			}
			return out
		}
	}
	t.Fatalf("%s: %v", name, err)
	return ""
}

// TestNamesOutliveServerAndAgent: names follow the snapshot at once, and an agent that starts without a server answers by
// what the one before it knew.
func TestNamesOutliveServerAndAgent(t *testing.T) {
	dir := scratch.Dir(t) + "/agent"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cidr := loopRange()
	at := netip.MustParsePrefix(cidr).Addr().Next().String()
	seen := view.New()
	n, stop := answering(t, dir, seen)
	revision := uint64(0)
	put := func(obj object.Object) {
		revision++
		obj.SetResourceVersion(fmt.Sprint(revision))
		seen.Apply(view.Event{Type: watch.Added, Object: obj})
	}
	put(withRange(cidr))
	n.ServeIn(withRange(cidr))
	if got := (Resolving{Server: n}).DNS().Servers; len(got) != 1 || got[0] != at {
		t.Errorf("pods ask %q, want %s", got, at)
	}
	put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9"}})
	put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: corev1.ServiceSpec{ClusterIP: "None"}})
	host := "db-0"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}, Hostname: &host}},
	}
	put(slice)
	put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "gone"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.10"}})
	gone, _ := seen.Get(resource.Services, "shop", "gone")
	gone = gone.(*corev1.Service).DeepCopy()
	gone.SetResourceVersion(fmt.Sprint(revision + 1))
	seen.Apply(view.Event{Type: watch.Deleted, Object: gone})
	want := map[string]string{
		"web.shop.svc.cluster.local.": "NOERROR 10.96.0.9", "db-0.db.shop.svc.cluster.local.": "NOERROR 10.244.0.5",
		"gone.shop.svc.cluster.local.": "NXDOMAIN", "nobody.shop.svc.cluster.local.": "NXDOMAIN",
	}
	check := func(when string) {
		t.Helper()
		for name, answer := range want {
			if got := resolve(t, at, name); got != answer {
				t.Errorf("%s: %s: %s, want %s", when, name, got, answer)
			}
		}
	}
	check("at first")
	stop()
	_, stop = answering(t, dir, view.New())
	defer stop()
	check("without a server")
}

// TestWhoAsks: an address is known as its pod's for as long as it is, whoever has it next.
func TestWhoAsks(t *testing.T) {
	dir := scratch.Dir(t) + "/agent"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cidr := loopRange()
	at := netip.MustParsePrefix(cidr).Addr().Next().String()
	seen := view.New()
	n, stop := answering(t, dir, seen)
	defer stop()
	n.ServeIn(withRange(cidr))
	seen.Apply(view.Event{Type: watch.Added, Object: &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", ResourceVersion: "1"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9"},
	}})
	// A search list by which a name resolves that would not without.
	searches := []string{"a.svc.cluster.local.", "shop.svc.cluster.local."}
	const question = "web.a.svc.cluster.local."
	me := netip.MustParseAddr("127.0.0.1") // whoever asks by loopback
	steps := []struct {
		what string
		do   func()
		want string
	}{
		{"nobody", func() {}, "NXDOMAIN"},
		{"a pod", func() { n.know("one", me, searches) }, "NOERROR 10.96.0.9"},
		{"its successor", func() { n.know("two", me, searches) }, "NOERROR 10.96.0.9"},
		{"after the first is gone", func() { n.know("one", netip.Addr{}, nil) }, "NOERROR 10.96.0.9"},
		{"one that wants none", func() { n.know("two", me, nil) }, "NXDOMAIN"},
		{"that is gone", func() { n.know("two", netip.Addr{}, nil) }, "NXDOMAIN"},
	}
	for _, s := range steps {
		s.do()
		if got := resolve(t, at, question); !strings.HasPrefix(got, s.want) {
			t.Errorf("%s: %s, want %s", s.what, got, s.want)
		}
	}
	n.state.Do(func(s *state) {
		if len(s.places) != 0 {
			t.Error(s.places)
		}
	})
}
