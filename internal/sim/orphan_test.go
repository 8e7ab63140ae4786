package sim

import (
	"context"
	"math/rand/v2"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/virtual"
)

// TestUnseenDependent: an owner that is deleted does not go while there is a dependent that the collector's snapshot does not
// show yet. With the orphan policy it would be collected afterwards, in the foreground it would outlive its owner.
func TestUnseenDependent(t *testing.T) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationOrphan, metav1.DeletePropagationForeground} {
		t.Run(string(policy), func(t *testing.T) {
			w := &world{has: map[feature]bool{}, rand: rand.New(rand.NewPCG(0, 1)), ctx: context.Background()}
			w.begin(virtual.Controllers(nil), virtual.Config{Start: epoch, Behavior: instant, Beats: true})
			w.as(virtual.User, func() {
				w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
				w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: nodelife.LeaseNamespace}})
				w.addNode("n0")
				w.make(&corev1.ConfigMap{ObjectMeta: meta("owner")})
			})
			rest(w)
			owner, _ := w.Truth().Get(resource.ConfigMaps, ns, "owner")
			w.as(virtual.User, func() {
				set := smallReplicaSet(0)(w).(*appsv1.ReplicaSet)
				set.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.GetUID(), BlockOwnerDeletion: new(true)}}
				w.make(set)
				w.delete(resource.ConfigMaps, "owner", metav1.DeleteOptions{PropagationPolicy: &policy})
			})
			for watch := w.Control().Watch(resource.ConfigMaps); watch.Behind(); {
				watch.Deliver()
			}
			for w.Decide() {
				continue
			}
			if _, there := w.Truth().Get(resource.ConfigMaps, ns, "owner"); !there {
				t.Error("the owner went while it had a dependent")
			}
			rest(w)
			if _, there := w.Truth().Get(resource.ConfigMaps, ns, "owner"); there {
				t.Error("the owner stays")
			}
			var set object.Object
			if o, there := w.Truth().Get(resource.ReplicaSets, ns, "rs"); there {
				set = o
			}
			if kept := set != nil && len(set.GetOwnerReferences()) == 0; kept != (policy == metav1.DeletePropagationOrphan) {
				t.Errorf("in the end the dependent is %v", set)
			}
		})
	}
}
