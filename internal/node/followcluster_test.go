package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// TestSnapshotOfServices: the agent follows services, endpoint slices and its own node, keeps what it knows while no server
// answers and while another one does, and catches up afterwards.
func TestSnapshotOfServices(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		<-w.ended
		w.cfg.Snapshot, w.cfg.SnapshotReady = view.New(), make(chan struct{})
		create := func(obj object.Object) {
			t.Helper()
			if _, err := w.cluster.Create(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
		}
		service := func(name string) *corev1.Service {
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: name, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
			}}
		}
		create(service("web"))
		create(&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1"}, AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.9"}}},
		})
		create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
		w.start()
		w.settle(5 * time.Second)
		select {
		case <-w.cfg.SnapshotReady:
		default:
			t.Error("the picture is never said to be whole")
		}
		want := func(when string, services, slices int) {
			t.Helper()
			p := w.cfg.Snapshot
			if s, e := len(p.List(resource.Services, "")), len(p.List(resource.EndpointSlices, "")); s != services || e != slices {
				t.Errorf("%s: %d services and %d slices, want %d and %d", when, s, e, services, slices)
			}
			if nodes := p.List(resource.Nodes, ""); len(nodes) != 1 || nodes[0].GetName() != "one" {
				t.Errorf("%s: nodes %v", when, nodes)
			}
			for _, s := range p.List(resource.Services, "") {
				if s.GetManagedFields() != nil {
					t.Errorf("%s: managed fields are kept", when)
				}
			}
		}
		want("at first", 1, 1)
		create(service("db"))
		w.settle(time.Second)
		want("with another service", 2, 1)

		own := w.cluster
		w.apiAway.Store(true)
		w.settle(time.Minute)
		want("without a server", 2, 1)
		w.apiAway.Store(false)
		w.swap(w.newCluster())
		w.settle(time.Minute)
		want("with another cluster's server", 2, 1)
		w.swap(own)
		create(service("cache"))
		w.settle(time.Minute)
		want("with the server back", 3, 1)
	})
}
