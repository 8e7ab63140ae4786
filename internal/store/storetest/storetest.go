// Package storetest is the conformance suite of the store: every backend of the cluster's memory
// passes it.
//
// It owns what storage.Interface means to this cluster, as tests: upstream's own, and ours for
// what upstream's leave open (no lost update, gapless watches, every retained revision
// readable, model equivalence). It refuses to look inside a backend: performance, durability
// and faults are tested beside each.
package storetest

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
)

// Backend is a fresh, empty store.
type Backend struct {
	// Interface holds example.Pod objects under /pods, encoded by Codec, indexed by Index, with
	// progress bookmarks every second.
	storage.Interface
	// Other holds example.Pod objects under /other in the same cluster.
	Other storage.Interface
	// Compact drops the history up to rev.
	Compact func(t testing.TB, rev int64)
}

// Factory makes a backend that lives until the test ends.
type Factory func(t testing.TB) Backend

var (
	exampleScheme = runtime.NewScheme()
	exampleCodecs = serializer.NewCodecFactory(exampleScheme)
)

func init() {
	metav1.AddToGroupVersion(exampleScheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(exampleScheme))
	utilruntime.Must(examplev1.AddToScheme(exampleScheme))
}

// Codec encodes the pods of the suite.
func Codec() runtime.Codec { return apitesting.TestCodec(exampleCodecs, examplev1.SchemeGroupVersion) }

// NewPod and NewPodList make empty objects.
func NewPod() runtime.Object     { return &example.Pod{} }
func NewPodList() runtime.Object { return &example.PodList{} }

// Index has the one field the suite selects by.
func Index() storage.IndexerFuncs {
	return storage.IndexerFuncs{"spec.nodeName": func(obj runtime.Object) string { return obj.(*example.Pod).Spec.NodeName }}
}

// Attrs are the labels and fields of a pod.
func Attrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	pod := obj.(*example.Pod)
	return pod.Labels, fields.Set{"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "spec.nodeName": pod.Spec.NodeName}, nil
}

// Run runs the whole suite: Upstream and Ours.
func Run(t *testing.T, open Factory) {
	t.Run("Upstream", func(t *testing.T) { Upstream(t, open) })
	t.Run("Ours", func(t *testing.T) { Ours(t, open) })
}

// Ours runs what upstream's tests leave open. It is quick; Upstream's takes a quarter of a minute,
// most of it waiting for deadlines.
func Ours(t *testing.T, open Factory) {
	for name, test := range map[string]func(*testing.T, Backend){
		"NoLostUpdates":       noLostUpdates,
		"CreateOnce":          createOnce,
		"OneRevisionOrder":    oneRevisionOrder,
		"FollowersAgree":      followersAgree,
		"EveryRevision":       everyRevision,
		"PagesAreOneRevision": pagesAreOneRevision,
		"Expired":             expired,
		"SelectorTransitions": selectorTransitions,
		"NoChangeNoRevision":  noChangeNoRevision,
		"DeleteReports":       deleteReports,
		"SlowWatcher":         slowWatcher,
		"CallersCannotHarm":   callersCannotHarm,
		"StoredAsRead":        storedAsRead,
		"TimeToLive":          timeToLive,
		"InitialEvents":       initialEvents,
		"FieldIndexAgrees":    fieldIndexAgrees,
		"CancelledWrite":      cancelledWrite,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("Model", func(t *testing.T) { model(t, open) })
}
