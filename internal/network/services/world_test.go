package services

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/filetree/scratch"
	"coracle/internal/network/nstest"
	"coracle/internal/network/pod"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

const (
	bridge     = "cor-test1"
	podRange   = "10.244.1.0/24"
	ofPods     = "10.244.0.0/16"
	ofServices = "10.96.0.0/16"
	nodeName   = "one"
)

// world is a machine in a network namespace of its own, with one node whose services are led.
type world struct {
	t        testing.TB
	host     string // path of the namespace
	net      *pod.Network
	snapshot *view.View
	ready    chan struct{}
	router   *Router
	stop     func()
	over     <-chan struct{} // closed when the router has ended
	died     int             // how many routers have ended of themselves
	revision uint64
	cfg      Config
	patience time.Duration // of ask
}

// inMachine runs a test in a network namespace, on a thread that is thrown away afterwards.
func inMachine(t testing.TB, test func(w *world)) {
	t.Helper()
	inMachineOf(t, pod.Second{}, test)
}

// inMachineOf is inMachine with pods of two families, where second is valid; then the services that are led are IPv6 ones.
func inMachineOf(t testing.TB, second pod.Second, test func(w *world)) {
	t.Helper()
	base := scratch.Dir(t)
	nstest.Run(t, func() {
		w := &world{
			t: t, host: fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), snapshot: view.New(), patience: 2 * time.Second, ready: make(chan struct{}),
		}
		w.up("lo")
		var err error
		w.net, err = pod.Open(pod.Config{
			Bridge: bridge, CIDR: netip.MustParsePrefix(podRange), ClusterCIDR: netip.MustParsePrefix(ofPods),
			Services: netip.MustParsePrefix(ofServices), StateDir: filepath.Join(base, "network"), NFTable: "pods-test", MTU: 1400,
			SettingsDir: filepath.Join(base, "settings"), IPv6: second,
		})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() {
			if err := w.net.Destroy(); err != nil {
				t.Error(err)
			}
		}()
		close(w.ready)
		w.cfg = Config{
			Node: nodeName, Table: "services-test", Bridge: bridge, Siblings: "cor-", Pods: netip.MustParsePrefix(ofPods),
			Services: netip.MustParsePrefix(ofServices), Snapshot: w.snapshot, Ready: w.ready,
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Spec: corev1.NodeSpec{PodCIDR: podRange}}
		if second.CIDR.IsValid() {
			node.Spec.PodCIDRs = []string{podRange, second.CIDR.String()}
			w.cfg.Pods, w.cfg.Services = second.ClusterCIDR, second.Services
		}
		w.put(node)
		w.start()
		defer func() { w.stop() }()
		test(w)
	})
}

func (w *world) up(name string) {
	w.t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// start is a new router, as of a new agent.
func (w *world) start() {
	w.t.Helper()
	w.live(w.open())
}

func (w *world) open() *Router {
	w.t.Helper()
	r, err := Open(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) live(r *Router) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.Run(ctx)
	}()
	w.router, w.over = r, over
	w.stop = func() {
		cancel()
		<-over
		r.Close()
	}
}

// put makes objects part of the snapshot, drop takes them out.
func (w *world) put(objects ...object.Object) {
	for _, o := range objects {
		w.revision++
		o.SetResourceVersion(strconv.FormatUint(w.revision, 10))
		w.snapshot.Apply(view.Event{Type: watch.Modified, Object: o})
	}
}

func (w *world) drop(objects ...object.Object) {
	for _, o := range objects {
		w.revision++
		w.snapshot.Apply(view.Event{Type: watch.Deleted, Object: o, Resource: resource.Of(o), Revision: w.revision})
	}
}

// settle waits until the kernel has all that the snapshot shows. A router that ends before is followed by another.
func (w *world) settle() {
	w.t.Helper()
	// A change of endpoints, of no service, marks the place in the order of changes.
	mark := func() {
		w.put(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "marker", Name: "marker"}})
	}
	mark()
	timeout := time.After(30 * time.Second)
	for {
		at, later := w.router.Committed()
		if at >= w.revision {
			return
		}
		select {
		case <-later:
		case <-w.over:
			w.died++
			w.stop()
			w.start()
			mark()
		case <-timeout:
			w.t.Fatalf("the kernel has revision %d, not %d", at, w.revision)
		}
	}
}

// sandbox makes a pod: a network namespace with an address.
func (w *world) sandbox(name string) (path string, ip netip.Addr) {
	w.t.Helper()
	path, at := w.attach(name)
	return path, at.IP
}

// sandbox6 is sandbox, with the pod's IPv6 address.
func (w *world) sandbox6(name string) (path string, ip netip.Addr) {
	w.t.Helper()
	path, at := w.attach(name)
	return path, at.IP6
}

func (w *world) attach(name string) (path string, at pod.Attachment) {
	w.t.Helper()
	path = filepath.Join(scratch.Dir(w.t), name)
	nstest.Hold(w.t, path)
	at, err := w.net.Attach(context.Background(), path, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return path, at
}

// in runs f on a thread inside the namespace at path; "" is the host's.
func (w *world) in(path string, f func() error) error {
	if path == "" {
		return f()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// serve answers each connection, or datagram, with a name and the address it came from.
func (w *world) serve(path, network, address, name string) {
	w.t.Helper()
	err := w.in(path, func() error {
		if strings.HasPrefix(network, "udp") {
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			w.t.Cleanup(func() { conn.Close() })
			go answerPackets(conn, name)
			return nil
		}
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { l.Close() })
		go answerStreams(l, name)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func answerPackets(conn net.PacketConn, name string) {
	buf := make([]byte, 64)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(name+" "+hostOf(from)+"\n"), from)
	}
}

func answerStreams(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, name+" "+hostOf(c.RemoteAddr())+"\n")
		c.Close()
	}
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

// ask connects from a namespace, and returns who answered and whom he saw.
func (w *world) ask(path, network, address string) (name, saw string, err error) {
	err = w.in(path, func() error {
		c, err := net.DialTimeout(network, address, w.patience)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(w.patience)); err != nil {
			return err
		}
		if strings.HasPrefix(network, "udp") {
			if _, err := io.WriteString(c, "?"); err != nil {
				return err
			}
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return err
		}
		name, saw, _ = strings.Cut(strings.TrimSpace(line), " ")
		return nil
	})
	return name, saw, err
}

func (w *world) want(path, network, address, name string) (saw string) {
	w.t.Helper()
	got, saw, err := w.ask(path, network, address)
	if err != nil || got != name {
		w.t.Errorf("from %q to %s %s: %q, %v; want %s", filepath.Base(path), network, address, got, err, name)
	}
	return saw
}

// wantRefused: the answer is a refusal, and it answers the first packet.
func (w *world) wantRefused(path, network, address string) {
	w.t.Helper()
	got, again := "", uint8(0)
	var err error
	if strings.HasPrefix(network, "udp") {
		got, _, err = w.ask(path, network, address) // which sends one
	} else {
		err = w.in(path, func() (err error) {
			again, err = connect(netip.MustParseAddrPort(address), w.patience)
			return err
		})
	}
	// What the node's own rules keep from leaving it, a datagram, is told its sender as EPERM.
	own := path == "" && strings.HasPrefix(network, "udp") && errors.Is(err, unix.EPERM)
	if !errors.Is(err, unix.ECONNREFUSED) && !own {
		w.t.Errorf("from %q to %s %s: %q, %v; want a refusal", filepath.Base(path), network, address, got, err)
	} else if again > 0 {
		w.t.Errorf("from %q to %s %s: refused when it was asked %d times more", filepath.Base(path), network, address, again)
	}
}

// connect connects a stream, and says how often the kernel had to ask again.
func connect(to netip.AddrPort, patience time.Duration) (again uint8, err error) {
	var at unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	family := unix.AF_INET6
	if to.Addr().Is4() {
		at, family = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}, unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return 0, err
	}
	err = unix.Connect(fd, at)
	for errors.Is(err, unix.EINTR) {
		err = unix.Connect(fd, at)
	}
	info, told := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if told != nil {
		return 0, errors.Join(err, told)
	}
	return uint8(info.Total_retrans), err
}

// wantSilence: there is no answer at all.
func (w *world) wantSilence(path, network, address string) {
	w.t.Helper()
	defer func(d time.Duration) { w.patience = d }(w.patience)
	w.patience = 100 * time.Millisecond
	var late net.Error
	if got, _, err := w.ask(path, network, address); !errors.As(err, &late) || !late.Timeout() {
		w.t.Errorf("from %q to %s %s: %q, %v; want silence", filepath.Base(path), network, address, got, err)
	}
}

func service(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Ports: ports},
	}
}

func port(name string, protocol corev1.Protocol, number int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: protocol, Port: number}
}

// slice is an endpoint slice of a service's port with ready endpoints.
func slice(of, name string, protocol corev1.Protocol, number int32, ips ...netip.Addr) *discoveryv1.EndpointSlice {
	sl := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: of + "-" + name + strings.ToLower(string(protocol)), Labels: map[string]string{discoveryv1.LabelServiceName: of},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &number}},
	}
	yes, node := true, nodeName
	for _, ip := range ips {
		if ip.Is6() {
			sl.AddressType = discoveryv1.AddressTypeIPv6
		}
		sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}, NodeName: &node,
		})
	}
	return sl
}

// outside makes a machine beside this one, at 192.0.2.2, which sees the node at 192.0.2.1.
func (w *world) outside() string {
	w.t.Helper()
	path := filepath.Join(scratch.Dir(w.t), "outside")
	nstest.Hold(w.t, path)
	ns, err := netns.GetFromPath(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wire"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "wire", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		w.t.Fatal(err)
	}
	w.address("wire", "192.0.2.1/24")
	if err := w.in(path, func() error {
		w.address("wire", "192.0.2.2/24")
		link, err := netlink.LinkByName("wire")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)})
	}); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) address(link, cidr string) {
	w.t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		w.t.Error(err)
		return
	}
	addr, err := netlink.ParseAddr(cidr)
	if err == nil {
		err = netlink.AddrAdd(l, addr)
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		w.t.Error(err)
	}
}
