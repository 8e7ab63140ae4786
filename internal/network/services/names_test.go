package services

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNamesAreNotTracked: questions to the node's name server and their answers, by UDP, leave no memory in the kernel, from a
// pod, from the node and from outside; all else does. A node that gets its range late is no exception.
func TestNamesAreNotTracked(t *testing.T) {
	inMachine(t, func(w *world) {
		w.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}})
		w.settle()
		w.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Spec: corev1.NodeSpec{PodCIDR: podRange}})
		w.settle()
		out := w.outside()
		client, _ := w.sandbox("client")
		at := w.net.Gateway().String()
		for _, port := range []string{"53", "54"} {
			w.serve("", "udp4", net.JoinHostPort(at, port), "names")
			w.serve("", "tcp4", net.JoinHostPort(at, port), "names")
		}
		for _, from := range []string{client, "", out} {
			for _, network := range []string{"udp4", "tcp4"} {
				w.want(from, network, at+":53", "names")
				w.want(from, network, at+":54", "names")
			}
		}
		w.wantRefused(client, "udp4", "10.96.77.7:53")
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		if err != nil {
			t.Fatal(err)
		}
		others := 0
		for _, f := range flows {
			switch {
			case f.Forward.Protocol == unix.IPPROTO_UDP && (f.Forward.DstPort == 53 || f.Forward.SrcPort == 53):
				t.Errorf("tracked: %s", f)
			default:
				others++
			}
		}
		if others < 9 { // three clients: UDP to another port, TCP to both
			t.Errorf("%d flows are tracked in all: is anything?", others)
		}
	})
}
