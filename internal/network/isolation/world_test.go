package isolation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/filetree/scratch"
	"coracle/internal/network/nstest"
	"coracle/internal/network/pod"
	"coracle/internal/network/policy"
	"coracle/internal/peers"
)

const (
	bridge   = "cor-test2"
	podRange = "10.244.1.0/28"
	ofPods   = "10.244.0.0/16"
	nodeName = "one"
)

// world is a machine in a network namespace of its own, with one node whose pods are governed.
type world struct {
	t    testing.TB
	host string // path of the namespace
	net  *pod.Network
	iso  *Isolation
	stop func()
	cfg  Config
	uids int
}

// An answer that should come is waited for so long, and one that should not.
const (
	patience = 5 * time.Second
	denied   = 150 * time.Millisecond
)

// inMachine runs a test in a network namespace, on a thread that is thrown away afterwards.
func inMachine(t testing.TB, test func(w *world)) {
	t.Helper()
	inMachineOf(t, pod.Second{}, test)
}

// inMachineOf is inMachine, with pods of two families where second is valid: then it is their IPv6 addresses that are governed.
func inMachineOf(t testing.TB, second pod.Second, test func(w *world)) {
	t.Helper()
	base := scratch.Dir(t)
	nstest.Run(t, func() {
		w := &world{t: t, host: fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err == nil {
			w.net, err = pod.Open(pod.Config{
				Bridge: bridge, CIDR: netip.MustParsePrefix(podRange), ClusterCIDR: netip.MustParsePrefix(ofPods),
				StateDir: filepath.Join(base, "network"), NFTable: "pods-test", MTU: 1400, SettingsDir: filepath.Join(base, "settings"),
				IPv6: second,
			})
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer func() {
			if err := w.net.Destroy(); err != nil {
				t.Error(err)
			}
		}()
		w.cfg = Config{
			IPv6: second.CIDR.IsValid(), Node: nodeName, Table: "policies-test", Bridge: bridge, Dir: filepath.Join(base, "agent"),
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		}
		w.start()
		defer func() { w.stop() }()
		test(w)
	})
}

// start is a new isolation, as of a new agent.
func (w *world) start() {
	w.t.Helper()
	i, err := Open(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		i.Run(ctx)
	}()
	w.iso = i
	w.stop = func() {
		cancel()
		<-over
		i.Close()
	}
}

// tell is a server that tells of everything.
func (w *world) tell(all ...*peers.Message) {
	w.iso.OnChange(&peers.Message{Begin: true})
	for _, m := range all {
		w.iso.OnChange(m)
	}
	w.iso.OnChange(&peers.Message{End: true})
}

// settle waits until the kernel has all that was told.
func (w *world) settle() {
	w.t.Helper()
	timeout := time.After(30 * time.Second)
	i := w.iso
	i.mu.Lock()
	defer i.mu.Unlock()
	for at := i.last; i.done < at; {
		moved := i.moved
		i.mu.Unlock()
		select {
		case <-moved:
		case <-timeout:
			i.mu.Lock()
			w.t.Fatalf("the kernel holds %d of what was told, not %d: %v", i.done, at, i.trouble)
		}
		i.mu.Lock()
	}
}

func (w *world) namespace(path string) {
	w.t.Helper()
	nstest.Hold(w.t, path)
}

// box is a sandbox, and the pod that is to have it.
type box struct {
	path string
	ip   netip.Addr
	ips  []string // both, where it has two
	pod  *corev1.Pod
}

// sandbox makes a network namespace with an address, of a pod that nobody knows yet.
func (w *world) sandbox(namespace, name, labels string) *box {
	w.t.Helper()
	path := filepath.Join(scratch.Dir(w.t), name)
	w.namespace(path)
	at, err := w.net.Attach(context.Background(), path, namespace+"-"+name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.uids++
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: labelsOf(labels), UID: types.UID(fmt.Sprint(name, w.uids)),
	}}
	b := &box{path, at.IP, []string{at.IP.String()}, p}
	if at.IP6.IsValid() {
		b.ip, b.ips = at.IP6, append(b.ips, at.IP6.String())
	}
	return b
}

// pod makes one that stands.
func (w *world) pod(namespace, name, labels string) *box {
	w.t.Helper()
	b := w.sandbox(namespace, name, labels)
	w.stand(b)
	return b
}

func (w *world) stand(b *box) {
	w.t.Helper()
	w.iso.OnChange(&peers.Message{Pod: &peers.Pod{Namespace: b.pod.Namespace, Name: b.pod.Name, Here: b.pod.UID}})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.iso.Stand(ctx, b.pod, b.ips); err != nil {
		w.t.Fatal(err)
	}
}

func labelsOf(text string) map[string]string {
	out := map[string]string{}
	for _, kv := range strings.Fields(text) {
		k, v, _ := strings.Cut(kv, "=")
		out[k] = v
	}
	return out
}

// in runs f on a thread inside a sandbox; nil is the node.
func (w *world) in(b *box, f func() error) error {
	path := w.host
	if b != nil {
		path = b.path
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

// serve answers each connection, or datagram, and keeps connections open: each line is answered by the same.
func (w *world) serve(b *box, network string, ports ...int) {
	w.t.Helper()
	for _, p := range ports {
		err := w.in(b, func() error {
			address := fmt.Sprint(":", p)
			if strings.HasPrefix(network, "udp") {
				conn, err := net.ListenPacket(network, address)
				if err != nil {
					return err
				}
				w.t.Cleanup(func() { conn.Close() })
				go func() {
					buf := make([]byte, 64)
					for {
						n, from, err := conn.ReadFrom(buf)
						if err != nil {
							return
						}
						_, _ = conn.WriteTo(buf[:n], from)
					}
				}()
				return nil
			}
			l, err := net.Listen(network, address)
			if err != nil {
				return err
			}
			w.t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					w.t.Cleanup(func() { c.Close() })
					go func() { _, _ = io.Copy(c, c) }()
				}
			}()
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// dial opens a connection that answers; it fails where none comes to be within some time.
func (w *world) dial(from *box, network string, to netip.AddrPort, within time.Duration) (c net.Conn, err error) {
	err = w.in(from, func() error {
		if c, err = net.DialTimeout(network, to.String(), within); err != nil {
			return err
		}
		return echo(c, within)
	})
	if err != nil && c != nil {
		c.Close()
	}
	return c, err
}

// echo asks and waits for the answer. A datagram may be lost: it is asked again after a while.
func echo(c net.Conn, within time.Duration) (err error) {
	each := within
	if _, datagrams := c.(*net.UDPConn); datagrams {
		each = min(within, time.Second)
	}
	for end := time.Now().Add(within); ; {
		if err = c.SetDeadline(time.Now().Add(each)); err != nil {
			return err
		}
		if _, err = io.WriteString(c, "?\n"); err != nil {
			return err
		}
		if _, err = bufio.NewReader(c).ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) || time.Until(end) < each {
			return err
		}
	}
}

// want holds connections, "tcp4 8080" and so on, against whether they should come to be.
func (w *world) want(from *box, to netip.Addr, allowed bool, what ...string) {
	w.t.Helper()
	within := denied
	if allowed {
		within = patience
	}
	results := make([]error, len(what))
	var all sync.WaitGroup
	for i, text := range what {
		network, port, _ := strings.Cut(text, " ")
		all.Go(func() {
			c, err := w.dial(from, network, netip.MustParseAddrPort(net.JoinHostPort(to.String(), port)), within)
			if results[i] = err; err == nil {
				c.Close()
			}
		})
	}
	all.Wait()
	for i, err := range results {
		if (err == nil) != allowed {
			w.t.Errorf("%s to %s %s: %v; want it allowed: %v", nameOf(from), to, what[i], err, allowed)
		}
	}
}

func nameOf(b *box) string {
	if b == nil {
		return "the node"
	}
	return b.pod.Namespace + "/" + b.pod.Name
}

func space(name, labels string) *peers.Message {
	return &peers.Message{Namespace: &peers.Namespace{Name: name, Labels: labelsOf("kubernetes.io/metadata.name=" + name + " " + labels)}}
}

func policyOf(namespace, name string, spec networkingv1.NetworkPolicySpec) *peers.Message {
	return &peers.Message{Policy: &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}}
}

func noPolicy(namespace, name string) *peers.Message {
	return &peers.Message{Gone: &peers.Gone{Kind: peers.KindPolicy, Namespace: namespace, Name: name}}
}

func selects(labels string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: labelsOf(labels)}
}

// table is what the kernel holds.
func (w *world) table() (*policy.Table, bool) {
	w.t.Helper()
	_, there, err := w.iso.socket.Note(w.cfg.table())
	if err != nil {
		w.t.Fatal(err)
	}
	if !there {
		return nil, false
	}
	t, err := w.iso.load()
	if err != nil {
		w.t.Fatal(err)
	}
	return t, true
}
