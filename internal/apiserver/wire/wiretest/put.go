package wiretest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/kind"
	"coracle/internal/store"
)

// Put puts random objects of a kind into the store, past everything that would refuse them, and returns their keys.
func Put(t testing.TB, c *store.Collection, k kind.Kind, r *rand.Rand, n int) []string {
	t.Helper()
	root := "/" + k.Plural
	if k.Group != "" {
		root = "/" + k.Group + root
	}
	var keys []string
	for i := range n {
		obj := k.New()
		Fill(r, obj)
		m := obj.(metav1.Object)
		*obj.(metav1.ObjectMetaAccessor).GetObjectMeta().(*metav1.ObjectMeta) = metav1.ObjectMeta{
			Name: fmt.Sprint("n", i), Annotations: m.GetAnnotations(), ManagedFields: m.GetManagedFields(),
			Labels: map[string]string{"odd": fmt.Sprint(i % 2)}, UID: "u", Generation: m.GetGeneration(),
			OwnerReferences: m.GetOwnerReferences(), CreationTimestamp: m.GetCreationTimestamp(),
		}
		key := root + "/" + m.GetName()
		if k.Namespaced {
			m.SetNamespace([]string{"default", "kube-system"}[i%3/2])
			key = root + "/" + m.GetNamespace() + "/" + m.GetName()
		}
		if err := c.Create(context.Background(), key, obj, nil, 0); err != nil {
			t.Fatalf("%s: %v", k.Kind, err)
		}
		keys = append(keys, key)
	}
	return keys
}
