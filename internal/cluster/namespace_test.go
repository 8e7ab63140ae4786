package cluster_test

import (
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// TestNothingOutlivesItsNamespace ends namespaces while others go on writing into them: what was let in at the
// last moment goes with the namespace, and what comes later is refused.
func TestNothingOutlivesItsNamespace(t *testing.T) {
	w := start(t, 0)
	const writers = 8
	for round := range 30 {
		ns := fmt.Sprintf("round-%d", round)
		w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		var all sync.WaitGroup
		for i := range writers {
			all.Go(func() {
				for n := 0; ; n++ {
					// The last of them is refused, because the namespace is going or gone.
					o := &corev1.ConfigMap{ObjectMeta: in(ns, fmt.Sprintf("w%d-%d", i, n))}
					if _, err := w.Create(t.Context(), o); err != nil {
						return
					}
				}
			})
		}
		w.until("something written", func() bool { return w.count(resource.ConfigMaps, ns, nil) > writers })
		ref := object.Ref{Resource: resource.Namespaces, Key: object.Key{Name: ns}}
		if _, err := w.Delete(t.Context(), ref, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		all.Wait()
		w.until("the namespace gone", func() bool {
			_, ok := w.view.Get(resource.Namespaces, "", ns)
			return !ok
		})
		left, _, err := w.List(t.Context(), resource.ConfigMaps, client.ListOptions{Namespace: ns})
		if err != nil || len(left) > 0 {
			t.Fatalf("round %d: %d objects outlive their namespace (%v)", round, len(left), err)
		}
	}
}
