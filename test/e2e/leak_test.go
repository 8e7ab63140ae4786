package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var leakStarts = flag.Int("leaks", 20, "how many pods TestNoPacketLeaks starts under a policy that denies everything")

const deniesAll = `
apiVersion: v1
kind: Namespace
metadata: {name: closed}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing, namespace: closed}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: v1
kind: Pod
metadata: {name: prober}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "e2e/tools:1", command: [sh, -c, "exec sleep 271828"]}]
`

// tellsWhatItGot is a pod that sends to an address from its first moment on, and then says how many packets its network has taken in.
func tellsWhatItGot(namespace, name, node, to string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: new(bool),
			TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{
				Name: "c", Image: "e2e/tools:1",
				Command: []string{"sh", "-c", "for i in 1 2 3; do nc -w 1 " + to + " 8080 </dev/null >/dev/null 2>&1 & done; sleep 0.3; cat /proc/net/snmp"},
			}},
		},
	}
}

// received reads from /proc/net/snmp how many packets came in.
func received(snmp string) (int, error) {
	var names []string
	for _, line := range strings.Split(snmp, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Ip:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "InReceives" {
				return strconv.Atoi(fields[i])
			}
		}
	}
	return 0, fmt.Errorf("no InReceives in %q", snmp)
}

// prober sends to all addresses of ranges as fast as it can, from the network it is made in: an echo request, and a TCP segment
// that begins a connection. It counts what comes back, and what else comes, by sender.
type prober struct {
	icmp, tcp int
	sent      atomic.Int64
	seen      [1 << 16]atomic.Int64 // by the last two bytes of the address
}

func newProber() (*prober, error) {
	p := &prober{}
	var err error
	if p.icmp, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err != nil {
		return nil, err
	}
	if p.tcp, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
		return nil, errors.Join(err, unix.Close(p.icmp))
	}
	limit := unix.NsecToTimeval(int64(50 * time.Millisecond))
	for _, fd := range []int{p.icmp, p.tcp} {
		err = errors.Join(err, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	}
	return p, err
}

func (p *prober) close() { _ = errors.Join(unix.Close(p.icmp), unix.Close(p.tcp)) }

func checksum(sum uint32, raw []byte) uint16 {
	for ; len(raw) > 1; raw = raw[2:] {
		sum += uint32(binary.BigEndian.Uint16(raw))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// send goes over the addresses until ctx ends.
func (p *prober) send(ctx context.Context, own netip.Addr, targets []netip.Addr) {
	echo := []byte{8, 0, 0, 0, 0x27, 0x18, 0, 1}
	binary.BigEndian.PutUint16(echo[2:], checksum(0, echo))
	for n := uint32(1); ctx.Err() == nil; n++ {
		for _, to := range targets {
			_ = unix.Sendto(p.icmp, echo, 0, &unix.SockaddrInet4{Addr: to.As4()}) // refused where nobody is
			syn := make([]byte, 20)
			binary.BigEndian.PutUint16(syn, uint16(20000+n%20000))
			binary.BigEndian.PutUint16(syn[2:], 8080)
			binary.BigEndian.PutUint32(syn[4:], n)
			syn[12], syn[13] = 5<<4, 2
			binary.BigEndian.PutUint16(syn[14:], 1024)
			from, at := own.As4(), to.As4()
			pseudo := append(append(from[:], at[:]...), 0, unix.IPPROTO_TCP, 0, 20)
			binary.BigEndian.PutUint16(syn[16:], checksum(uint32(^checksum(0, pseudo)), syn))
			_ = unix.Sendto(p.tcp, syn, 0, &unix.SockaddrInet4{Addr: at})
			p.sent.Add(2)
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// listen counts until ctx ends. What is told by the node itself of others is none of theirs.
func (p *prober) listen(ctx context.Context, fd int) {
	buf := make([]byte, 2048)
	for ctx.Err() == nil {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == nil && n >= 20 {
			p.seen[binary.BigEndian.Uint16(buf[14:])].Add(1)
		}
	}
}

func (p *prober) from(a netip.Addr) int64 {
	b := a.As4()
	return p.seen[binary.BigEndian.Uint16(b[2:])].Load()
}

// TestNoPacketLeaks starts pods in a namespace where nothing is allowed, while another pod sends to every address that they can
// get. Not one packet arrives, and not one comes from them: counted in their networks, and in the other's.
func TestNoPacketLeaks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images().withEmbedded()
	c.apply(deniesAll)
	c.pods("default", 1)
	own := netip.MustParseAddr(strings.TrimSpace(c.k("get", "pod", "prober", "-o", "jsonpath={.status.podIP}")))
	var targets []netip.Addr
	gateways := map[netip.Addr]bool{}
	for _, text := range strings.Fields(c.k("get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}")) {
		r := netip.MustParsePrefix(text)
		first := r.Addr().Next()
		gateways[first] = true
		// Addresses are given in turn; a part of the range is enough to be at each in time.
		for a, i := first.Next(), 0; r.Contains(a) && i < 250; a, i = a.Next(), i+1 {
			if a != own {
				targets = append(targets, a)
			}
		}
	}
	var p *prober
	if err := c.inside("node-1", "271828", func() (err error) { p, err = newProber(); return err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{}, 3)
	for _, f := range []func(){func() { p.send(ctx, own, targets) }, func() { p.listen(ctx, p.icmp) }, func() { p.listen(ctx, p.tcp) }} {
		go func() { f(); over <- struct{}{} }()
	}
	defer func() {
		cancel()
		for range 3 {
			<-over
		}
		p.close()
	}()

	// The measure itself: a pod that nothing is denied takes packets in, and answers.
	open := tellsWhatItGot("default", "open", "node-2", own.String())
	got, at := c.runToEnd(open)
	if got == 0 || p.from(at) == 0 {
		t.Fatalf("of a pod that nothing is denied are counted %d packets that came and %d that it sent: nothing is measured", got, p.from(at))
	}
	before := map[netip.Addr]int64{}
	for _, a := range targets {
		before[a] = p.from(a)
	}
	const atOnce = 20
	leaked, lost, starts := 0, int64(0), 0
	for starts < *leakStarts {
		n := min(atOnce, *leakStarts-starts)
		type end struct {
			got int
			at  netip.Addr
		}
		ends := make(chan end, n)
		for i := range n {
			go func() {
				got, at := c.runToEnd(tellsWhatItGot("closed", fmt.Sprintf("p-%d", starts+i), c.nodes[i%2], own.String()))
				ends <- end{got, at}
			}()
		}
		for range n {
			e := <-ends
			if leaked += e.got; e.got > 0 {
				t.Errorf("at %s %d packets came in", e.at, e.got)
			}
		}
		starts += n
	}
	for _, a := range targets {
		if n := p.from(a) - before[a]; n > 0 && a != at {
			lost += n
			t.Errorf("from %s came %d packets", a, n)
		}
	}
	t.Logf("%d pods started, %d packets sent to their addresses: %d came in, %d came back", starts, p.sent.Load(), leaked, lost)
}

// runToEnd runs a pod that tells what it got, and returns that and where it was.
func (c *cluster) runToEnd(pod *corev1.Pod) (packets int, at netip.Addr) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*patience)
	defer cancel()
	if _, err := c.api.Create(ctx, pod); err != nil {
		c.t.Errorf("create %s: %v", pod.Name, err)
		return 0, at
	}
	w, err := c.api.Watch(ctx, resource.Pods, client.ListOptions{Namespace: pod.Namespace, FieldSelector: "metadata.name=" + pod.Name})
	if err != nil {
		c.t.Errorf("watch %s: %v", pod.Name, err)
		return 0, at
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		now, ok := ev.Object.(*corev1.Pod)
		if !ok || now.Status.Phase != corev1.PodSucceeded {
			continue
		}
		at, _ = netip.ParseAddr(now.Status.PodIP)
		log := c.try("logs", pod.Name, "-n", pod.Namespace)
		if packets, err = received(log.out); err != nil {
			c.t.Errorf("log of %s: %v %s", pod.Name, err, log.errs)
		}
		zero := int64(0)
		ref := object.Ref{Resource: resource.Pods, Key: object.KeyOf(now), UID: now.UID}
		if _, err := c.api.Delete(ctx, ref, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			c.t.Errorf("delete %s: %v", pod.Name, err)
		}
		return packets, at
	}
	c.t.Errorf("pod %s has not ended", pod.Name)
	return 0, at
}
