package codec

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/apiserver/openapi"
	"coracle/internal/apiserver/registry"
	"coracle/internal/apiserver/wire"
	"coracle/internal/apiserver/wire/wiretest"
	"coracle/internal/kind"
	"coracle/internal/resource"
	"coracle/internal/scheme"
	"coracle/internal/store"
)

// seeds is how many random sets of objects of each kind are encoded in every way.
var seeds = flag.Uint64("encoder.seeds", 4, "how many sets of objects of each kind are encoded")

// written is what reaches the client, and whether the first piece tells of more: by that, upstream's writer of answers
// decides whether an answer is squeezed.
type written struct {
	bytes.Buffer
	pieces bool
	any    bool
}

func (w *written) Write(p []byte) (int, error) {
	if !w.any {
		w.any, w.pieces = true, len(p) <= 4
	}
	return w.Buffer.Write(p)
}

// TestEncodersAreUpstreams holds our encoders against those of k8s.io/apimachinery: every kind under every version that
// serves it, alone, in a list and in a watch event, in every form, to the byte.
func TestEncodersAreUpstreams(t *testing.T) {
	s, err := store.Open(store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	kinds := registry.NewSet(slog.New(slog.DiscardHandler))
	ranges := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	if err := kinds.Open(s, registry.Config{Types: openapi.NewTypes(scheme.Scheme), Ranges: ranges}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"default", "kube-system"} { // where the objects are put
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := kinds.All[resource.Namespaces].Stored.Create(t.Context(), registry.KeyOf(resource.Namespaces, "", name), ns, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range kind.All() {
		c := kinds.All[k.Resource].Stored
		t.Run(k.Kind, func(rt *testing.T) {
			for seed := range *seeds {
				r := rand.New(rand.NewPCG(seed, 0))
				keys := wiretest.Put(t, c, k, r, int(seed%3))
				encodeAll(rt, c, k, r)
				empty(t, c, keys)
			}
		})
	}
}

// encodeAll encodes all there is of a kind in every way.
func encodeAll(t *testing.T, c *store.Collection, k kind.Kind, r *rand.Rand) {
	t.Helper()
	shared := &registry.SharedList{NewList: k.NewList}
	if err := c.GetList(context.Background(), registry.KeyRoot(k.Resource), storage.ListOptions{Recursive: true, Predicate: storage.Everything}, shared); err != nil {
		t.Fatal(err)
	}
	shared.Continue = []string{"", "token"}[r.IntN(2)]
	if rest := r.Int64N(3); rest > 0 {
		shared.RemainingItemCount = &rest
	}
	codecs := New()
	versions := []schema.GroupVersion{k.GVK().GroupVersion()}
	for _, alias := range k.Aliases {
		versions = append(versions, alias.GVK().GroupVersion())
	}
	for _, info := range codecs.SupportedMediaTypes() {
		for _, serializer := range []runtime.Encoder{info.Serializer, info.PrettySerializer} {
			for _, gv := range versions {
				if serializer != nil {
					encodeBoth(t, codecs.EncoderForVersion(serializer, gv), codecs.CodecFactory.EncoderForVersion(serializer, gv), shared)
				}
			}
		}
	}
}

// encodeBoth encodes a list and all in it by two encoders.
func encodeBoth(t *testing.T, ours, theirs runtime.Encoder, shared *registry.SharedList) {
	t.Helper()
	list, err := shared.Whole()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "list", ours, theirs, shared, list)
	for i := range shared.Page.Len() {
		obj := shared.Page.At(i)
		before := obj.DeepCopyObject()
		raw := equal(t, "object", ours, theirs, obj, obj.DeepCopyObject())
		if !sameObject(before, obj) {
			t.Fatal("encoding changes the object")
		}
		if ours.(*sharedEncoder).form != otherForm { // in which there are watches
			event := &metav1.WatchEvent{Type: string(watch.Modified), Object: runtime.RawExtension{Raw: raw}}
			equal(t, "event", ours, theirs, event, event.DeepCopy())
		}
	}
}

func empty(t testing.TB, c *store.Collection, keys []string) {
	t.Helper()
	for _, key := range keys {
		if err := c.Delete(context.Background(), key, nil, nil, nil, nil, storage.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func sameObject(a, b runtime.Object) bool {
	x, errA := wire.AppendJSON(nil, a)
	y, errB := wire.AppendJSON(nil, b)
	return errA == nil && errB == nil && bytes.Equal(x, y) && b.GetObjectKind().GroupVersionKind().Empty()
}

func equal(t *testing.T, what string, ours, theirs runtime.Encoder, obj, copied runtime.Object) []byte {
	var got, want written
	if err := theirs.Encode(copied, &want); err != nil {
		t.Fatalf("%s: upstream refuses: %v", what, err)
	}
	if err := ours.Encode(obj, &got); err != nil {
		t.Fatalf("%s: we refuse: %v", what, err)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) || got.pieces != want.pieces {
		t.Fatalf("%s by %s: pieces %v and %v; we write\n%q\nupstream writes\n%q", what, theirs.Identifier(), got.pieces, want.pieces, got.Bytes(), want.Bytes())
	}
	return got.Bytes()
}
