package apiserver

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/apiserver/wire"
	"coracle/internal/apiserver/wire/wiretest"
	"coracle/internal/kind"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// seeds is how many random sets of objects of each kind are encoded in every way.
var seeds = flag.Uint64("encoder.seeds", 4, "how many sets of objects of each kind are encoded")

// fills puts random objects of a kind into the store, past everything that would refuse them, and returns their keys.
func fills(t testing.TB, c *store.Collection, k kind.Kind, r *rand.Rand, n int) []string {
	t.Helper()
	var keys []string
	for i := range n {
		obj := k.New()
		wiretest.Fill(r, obj)
		m := obj.(metav1.Object)
		*obj.(metav1.ObjectMetaAccessor).GetObjectMeta().(*metav1.ObjectMeta) = metav1.ObjectMeta{
			Name: fmt.Sprint("n", i), Annotations: m.GetAnnotations(), ManagedFields: m.GetManagedFields(),
			Labels: map[string]string{"odd": fmt.Sprint(i % 2)}, UID: "u", Generation: m.GetGeneration(),
			OwnerReferences: m.GetOwnerReferences(), CreationTimestamp: m.GetCreationTimestamp(),
		}
		key := keyRoot(k.Resource) + "/" + m.GetName()
		if k.Namespaced {
			m.SetNamespace([]string{"default", "kube-system"}[i%3/2])
			key = keyRoot(k.Resource) + "/" + m.GetNamespace() + "/" + m.GetName()
		}
		if err := c.Create(context.Background(), key, obj, nil, 0); err != nil {
			t.Fatalf("%s: %v", k.Kind, err)
		}
		keys = append(keys, key)
	}
	return keys
}

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
	for _, k := range kind.All() {
		c, err := collectionOf(s, k, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(k.Kind, func(rt *testing.T) {
			for seed := range *seeds {
				r := rand.New(rand.NewPCG(seed, 0))
				keys := fills(t, c, k, r, int(seed%3))
				encodeAll(rt, c, k, r)
				empty(t, c, keys)
			}
		})
	}
}

// encodeAll encodes all there is of a kind in every way.
func encodeAll(t *testing.T, c *store.Collection, k kind.Kind, r *rand.Rand) {
	t.Helper()
	shared := &sharedList{newList: k.NewList}
	if err := c.GetList(context.Background(), keyRoot(k.Resource), everythingRecursive(), shared); err != nil {
		t.Fatal(err)
	}
	shared.Continue = []string{"", "token"}[r.IntN(2)]
	if rest := r.Int64N(3); rest > 0 {
		shared.RemainingItemCount = &rest
	}
	codecs := newCodecs()
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
func encodeBoth(t *testing.T, ours, theirs runtime.Encoder, shared *sharedList) {
	t.Helper()
	list, err := shared.whole()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "list", ours, theirs, shared, list)
	for i := range shared.page.Len() {
		obj := shared.page.At(i)
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

func everythingRecursive() storage.ListOptions {
	return storage.ListOptions{Recursive: true, Predicate: storage.Everything}
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

// usually makes a header Accept that asks for the same, and that our short way leaves to upstream's.
func usually(accept string) string {
	if accept == "" {
		return "*/*;x=as"
	}
	return strings.ReplaceAll(accept, ",", ";x=as,") + ";x=as"
}

// TestListsAreUpstreams asks for lists of every kind by every option and compares the answer with that of upstream's
// handler to a made list: code, headers and bytes.
func TestListsAreUpstreams(t *testing.T) {
	c := start(t)
	r := rand.New(rand.NewPCG(7, 7))
	for res, o := range c.set.objects {
		if res == resource.Namespaces || res == resource.ServiceAccounts || strings.Contains(res.Group, "rbac") || strings.Contains(res.Group, "admission") {
			continue // others act on what is in them
		}
		fills(t, o.shared, o.kind, r, 7)
		thoroughly := res == resource.Pods || res == resource.Nodes
		root := "/apis/" + res.Group + "/" + res.Version
		if res.Group == "" {
			root = "/api/" + res.Version
		}
		paths := []string{root + "/" + res.Plural}
		if res.Namespaced {
			paths = append(paths, root+"/namespaces/default/"+res.Plural)
		}
		for _, path := range paths {
			for _, query := range listQueries(c, path, thoroughly) {
				for _, accept := range []string{"", "application/vnd.kubernetes.protobuf,application/json", "application/yaml"} {
					got, want := c.fetch(path+"?"+query, accept), c.fetch(path+"?"+query, usually(accept))
					if got != want {
						t.Fatalf("%s?%s, Accept %q:\nby the short way %s\nby upstream's    %s", path, query, accept, got, want)
					}
				}
			}
		}
	}
}

// listQueries are the options that are tried on a path.
func listQueries(c *cluster, path string, all bool) []string {
	if !all {
		return []string{"limit=5"}
	}
	list := c.get(path + "?limit=2").want(200)
	rev, token := list.field("metadata.resourceVersion"), url.QueryEscape(list.field("metadata.continue"))
	queries := []string{
		"", "limit=2", "limit=100", "limit=-1", "pretty=true", "labelSelector=odd%3D1", "labelSelector=odd%3D1&limit=1", "labelSelector=none", "labelSelector=%21%21",
		"fieldSelector=metadata.name%3Dn3", "fieldSelector=metadata.name%21%3Dn3&limit=2", "fieldSelector=spec.nothing%3D1", "fieldSelector=metadata.namespace%3Ddefault",
		"resourceVersion=0", "resourceVersion=1&resourceVersionMatch=Exact", "resourceVersion=99999999", "resourceVersion=x",
		"resourceVersion=" + rev + "&resourceVersionMatch=Exact", "resourceVersion=" + rev + "&resourceVersionMatch=NotOlderThan&limit=3",
		"resourceVersionMatch=Exact", "continue=x", "timeoutSeconds=5",
	}
	if token != "" {
		queries = append(queries, "limit=2&continue="+token, "continue="+token, "continue="+token+"&resourceVersion=1", "labelSelector=odd%3D1&limit=2&continue="+token)
	}
	return queries
}

// fetch returns all of an answer that does not tell the time.
func (c *cluster) fetch(path, accept string) string {
	c.t.Helper()
	req, err := http.NewRequest("GET", c.url+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Header.Del("Date")
	return fmt.Sprintf("%d %v %q", resp.StatusCode, resp.Header, body)
}

// TestShortWayIsTaken: a plain list is a shared one, and a table is not.
func TestShortWayIsTaken(t *testing.T) {
	c := start(t)
	o := c.set.objects[resource.ConfigMaps]
	marked := context.WithValue(context.Background(), plainListKey{}, true)
	for _, tc := range []struct {
		ctx    context.Context
		shared bool
	}{{marked, true}, {context.Background(), false}} {
		list, err := o.List(tc.ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, shared := list.(*sharedList); shared != tc.shared || meta.IsListType(list) == shared {
			t.Errorf("%T", list)
		}
	}
	for accept, plain := range map[string]bool{
		"": true, "application/json": true, "application/vnd.kubernetes.protobuf, application/json;q=0.9": true,
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json":                         false,
		"application/json, application/json; as = PartialObjectMetadataList;v=v1;g=meta.k8s.io": false,
	} {
		if asStored([]string{"application/json", accept}) != plain {
			t.Errorf("Accept %q: plain is %v", accept, !plain)
		}
	}
}
