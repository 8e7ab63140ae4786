package services

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func moreRange(name, cidr string, status metav1.ConditionStatus) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr}},
		Status: networkingv1.ServiceCIDRStatus{Conditions: []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: status}}},
	}
}

// TestMoreRanges: services of another range are led as all are, and addresses of it that no service has are refused at once,
// from pods and from the node, for as long as the range is there. One that the machine uses otherwise is left to it.
func TestMoreRanges(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		a, ipA := w.sandbox("a")
		client, _ := w.sandbox("client")
		w.serve(a, "tcp4", ":8080", "a")
		w.serve(out, "tcp4", ":8080", "outside")
		web := service("web", "10.97.0.10", port("http", corev1.ProtocolTCP, 80))
		web.Spec.Type, web.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
		more := moreRange("more", "10.97.0.0/16", metav1.ConditionTrue)
		w.put(web, slice("web", "http", corev1.ProtocolTCP, 8080, ipA), more, moreRange("within", "10.97.8.0/24", metav1.ConditionTrue),
			moreRange("not", "10.98.0.0/16", metav1.ConditionFalse), moreRange("harm", "192.0.2.0/24", metav1.ConditionTrue),
			moreRange("own", ofServices, metav1.ConditionTrue), moreRange("pods", "10.244.0.0/24", metav1.ConditionTrue))
		w.settle()
		for _, from := range []string{client, ""} {
			w.want(from, "tcp4", "10.97.0.10:80", "a")
			w.wantRefused(from, "tcp4", "10.97.0.10:81")
			w.wantRefused(from, "tcp4", "10.97.0.11:80")
			w.wantRefused(from, "udp4", "10.97.255.1:53")
			w.want(from, "tcp4", "192.0.2.2:8080", "outside")
		}
		w.want(out, "tcp4", "192.0.2.1:30080", "a")
		if _, _, err := w.ask("", "tcp4", "10.98.0.1:80"); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("of a range that is not ready: %v", err)
		}
		w.stop()
		w.start()
		w.settle()
		if n := w.router.written.Load(); n != 0 {
			t.Errorf("a new agent, that finds the ranges as they should be, writes %d elements", n)
		}
		w.want("", "tcp4", "10.97.0.10:80", "a")

		w.drop(moreRange("within", "10.97.8.0/24", metav1.ConditionTrue), web)
		now := metav1.Now()
		leaving := moreRange("more", "10.97.0.0/16", metav1.ConditionFalse)
		leaving.DeletionTimestamp, leaving.Status.Conditions[0].Reason = &now, networkingv1.ServiceCIDRReasonTerminating
		w.put(leaving)
		w.settle()
		w.wantRefused("", "tcp4", "10.97.0.10:80")
		w.drop(leaving)
		w.settle()
		if _, _, err := w.ask("", "tcp4", "10.97.0.10:80"); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("of a range that is gone: %v", err)
		}
	})
}

// TestWiderRange: a range that holds the configured one adds what that has not.
func TestWiderRange(t *testing.T) {
	inMachine(t, func(w *world) {
		a, ipA := w.sandbox("a")
		client, _ := w.sandbox("client")
		w.serve(a, "tcp4", ":8080", "a")
		w.put(moreRange("wider", "10.96.0.0/14", metav1.ConditionTrue),
			service("web", "10.99.0.10", port("http", corev1.ProtocolTCP, 80)), slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		for _, from := range []string{client, ""} {
			w.want(from, "tcp4", "10.99.0.10:80", "a")
			w.wantRefused(from, "tcp4", "10.96.9.9:80")
			w.wantRefused(from, "tcp4", "10.99.9.9:80")
		}
	})
}
