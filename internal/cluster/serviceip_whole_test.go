package cluster_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
)

// TestServiceRanges: a ServiceCIDR that is made becomes ready, services get addresses of it and IPAddresses that say so, and
// it is kept until they are gone.
func TestServiceRanges(t *testing.T) {
	w := start(t, 1)
	ctx := context.Background()
	make := func(name, ip string) error {
		_, err := w.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		}})
		return err
	}
	if err := make("early", "10.97.0.9"); err == nil {
		t.Error("an address of no range is given")
	}
	w.make(&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/24"}}})
	w.until("the range gives addresses", func() bool { return make("web", "10.97.0.9") == nil })
	has := func(ip string) bool {
		o, ok := w.view.Get(resource.IPAddresses, "", ip)
		return ok && !servicerange.Reserves(o.(*networkingv1.IPAddress)) && o.(*networkingv1.IPAddress).Spec.ParentRef.Name != ""
	}
	w.until("each service has its IPAddress", func() bool { return has("10.97.0.9") && has("10.96.0.1") })
	remove := func(res resource.Resource, namespace, name string) {
		t.Helper()
		if _, err := w.Delete(ctx, object.Ref{Resource: res, Key: object.Key{Namespace: namespace, Name: name}}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	remove(resource.ServiceCIDRs, "", "more")
	w.until("the range gives none any more", func() bool {
		err := make("late", "10.97.0.10")
		if err == nil {
			remove(resource.Services, "default", "late")
		}
		return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "not in the valid range")
	})
	if _, ok := w.view.Get(resource.ServiceCIDRs, "", "more"); !ok {
		t.Error("the range is gone though a service has an address of it")
	}
	remove(resource.Services, "default", "web")
	w.until("the range and the address go", func() bool {
		_, there := w.view.Get(resource.ServiceCIDRs, "", "more")
		return !there && !has("10.97.0.9")
	})
	w.sound()
}
