package kind

import (
	"context"
	"math/rand"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"pgregory.net/rapid"

	"coracle/internal/scheme"
)

// anyObject draws an object of a kind with every field at random: mostly invalid ones.
func anyObject(k Kind) *rapid.Generator[runtime.Object] {
	return rapid.Custom(func(t *rapid.T) runtime.Object {
		seed := rapid.Int64().Draw(t, "seed")
		obj := k.New()
		fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), scheme.Codecs)
		fill.NilChance(0.5).NumElements(0, 2).MaxDepth(10).Fill(obj)
		return obj
	})
}

// TestDefaultsSettle: whatever the object, its defaults are the same the second time.
func TestDefaultsSettle(t *testing.T) {
	for _, k := range All() {
		if k.Default == nil {
			continue
		}
		t.Run(k.Kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				once := anyObject(k).Draw(t, "object")
				k.Default(once)
				twice := once.DeepCopyObject()
				k.Default(twice)
				if !equality.Semantic.DeepEqual(once, twice) {
					t.Fatalf("defaults changed their own result")
				}
			})
		})
	}
}

// TestAnything: no object that decodes makes a strategy or a table panic, and validation and
// printing leave what they look at alone.
func TestAnything(t *testing.T) {
	for _, k := range All() {
		t.Run(k.Kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				obj, old := anyObject(k).Draw(t, "object"), anyObject(k).Draw(t, "old")
				if k.Default != nil {
					k.Default(obj)
					k.Default(old)
				}
				m, _ := meta.Accessor(obj)
				was, _ := meta.Accessor(old)
				if !k.Namespaced {
					m.SetNamespace("")
				}
				was.SetNamespace(m.GetNamespace())
				ctx := contextFor(k, obj)

				shown := obj.DeepCopyObject()
				if _, err := k.Columns.ConvertToTable(context.Background(), obj, &metav1.TableOptions{}); err != nil {
					t.Fatal(err)
				}
				if _, _, err := k.GetAttrs(obj); err != nil {
					t.Fatal(err)
				}
				k.Strategy.Validate(ctx, obj)
				k.Strategy.WarningsOnCreate(ctx, obj)
				if !equality.Semantic.DeepEqual(shown, obj) {
					t.Fatal("looking at an object changed it")
				}
				before := old.DeepCopyObject()
				_ = rest.BeforeUpdate(k.Strategy, ctx, obj.DeepCopyObject(), old)
				if k.Status != nil {
					_ = rest.BeforeUpdate(k.Status, ctx, obj.DeepCopyObject(), old)
				}
				for _, s := range k.Subresources {
					_ = rest.BeforeUpdate(s, ctx, obj.DeepCopyObject(), old)
				}
				if !equality.Semantic.DeepEqual(before, old) {
					t.Fatal("an update changed what was stored")
				}
				m.SetCreationTimestamp(metav1.Unix(1, 0))
				m.SetUID("u")
				m.SetGenerateName("")
				_ = rest.BeforeCreate(k.Strategy, ctx, obj)
			})
		})
	}
}
