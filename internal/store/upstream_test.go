package store_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/apiserver/pkg/util/flowcontrol"

	"coracle/internal/store"
)

var (
	exampleScheme = runtime.NewScheme()
	exampleCodecs = serializer.NewCodecFactory(exampleScheme)
)

func init() {
	metav1.AddToGroupVersion(exampleScheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(exampleScheme))
	utilruntime.Must(examplev1.AddToScheme(exampleScheme))
}

func nodeName(obj runtime.Object) string { return obj.(*example.Pod).Spec.NodeName }

func podResource() store.Resource {
	return store.Resource{
		Prefix:  "/pods",
		Codec:   apitesting.TestCodec(exampleCodecs, examplev1.SchemeGroupVersion),
		New:     func() runtime.Object { return &example.Pod{} },
		NewList: func() runtime.Object { return &example.PodList{} },
		Index:   storage.IndexerFuncs{"spec.nodeName": nodeName},

		WatchStarted: flowcontrol.WatchInitialized,
	}
}

func openStore(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func collection(t testing.TB, s *store.Store, res store.Resource) *store.Collection {
	t.Helper()
	c, err := s.For(res)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// subject is one fresh store with the pods upstream's tests work on.
type subject struct {
	*store.Collection
	s *store.Store
}

// UpdatePrefixTransformer satisfies upstream's interface. The store has no value transformers:
// there is nothing to revert.
func (subject) UpdatePrefixTransformer(storagetesting.PrefixTransformerModifier) func() {
	return func() {}
}

func newSubject(t *testing.T) subject {
	s := openStore(t, store.Config{Dir: t.TempDir(), BookmarkInterval: time.Second})
	return subject{collection(t, s, podResource()), s}
}

func (s subject) increase() storagetesting.IncreaseRVFunc {
	var n atomic.Int64
	return func(ctx context.Context, t *testing.T) int64 {
		res := podResource()
		res.Prefix = "/increase"
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", n.Add(1))}}
		if err := collection(t, s.s, res).Create(ctx, "/increase/"+pod.Name, pod, nil, 0); err != nil {
			t.Fatal(err)
		}
		return s.s.Revision()
	}
}

// compactAndWrite compacts as upstream's compactor does, which leaves a write of its own.
func (s subject) compactAndWrite(ctx context.Context, t *testing.T, rv string) {
	s.compact(ctx, t, rv)
	s.increase()(ctx, t)
}

func (s subject) compact(_ context.Context, t *testing.T, rv string) {
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(rv)
	if err != nil {
		t.Fatal(err)
	}
	s.s.Compact(int64(rev))
}

// stored checks that the durable object has neither revision nor self link, as upstream's does.
func (s subject) stored(ctx context.Context, t *testing.T, key string) {
	obj, err := s.Object(key)
	if err != nil {
		t.Fatalf("nothing stored at %s: %v", key, err)
	}
	if link := obj.(*example.Pod).SelfLink; link != "" {
		t.Errorf("stored object has self link %q", link)
	}
}

func noCalls(*testing.T, uint64, uint64) {}

// TestUpstreamStorage runs the tests that Kubernetes runs against its own storages. Left out are
// those that test what this store does not have: value transformers (TransformationFailure,
// WatchError, WatchErrorEventIsBlockingFurtherEvent, GuaranteedUpdateChecksStoredData, the stale
// case of GuaranteedUpdate) and deletion of objects that cannot be decoded (AllowUnsafeMalformedObjectDeletion).
func TestUpstreamStorage(t *testing.T) {
	tests := map[string]func(context.Context, *testing.T, subject){
		"Create":                                  func(ctx context.Context, t *testing.T, s subject) { storagetesting.RunTestCreate(ctx, t, s, s.stored) },
		"CreateWithTTL":                           plain(storagetesting.RunTestCreateWithTTL),
		"CreateWithKeyExist":                      plain(storagetesting.RunTestCreateWithKeyExist),
		"Get":                                     plain(storagetesting.RunTestGet),
		"UnconditionalDelete":                     plain(storagetesting.RunTestUnconditionalDelete),
		"ConditionalDelete":                       plain(storagetesting.RunTestConditionalDelete),
		"DeleteWithSuggestion":                    plain(storagetesting.RunTestDeleteWithSuggestion),
		"DeleteWithSuggestionAndConflict":         plain(storagetesting.RunTestDeleteWithSuggestionAndConflict),
		"DeleteWithSuggestionOfDeletedObject":     plain(storagetesting.RunTestDeleteWithSuggestionOfDeletedObject),
		"ValidateDeletionWithSuggestion":          plain(storagetesting.RunTestValidateDeletionWithSuggestion),
		"ValidateDeletionWithOnlySuggestionValid": plain(storagetesting.RunTestValidateDeletionWithOnlySuggestionValid),
		"DeleteWithConflict":                      plain(storagetesting.RunTestDeleteWithConflict),
		"PreconditionalDeleteWithSuggestion":      plain(storagetesting.RunTestPreconditionalDeleteWithSuggestion),
		"PreconditionalDeleteWithSuggestionPass":  plain(storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass),
		"ListPaging":                              plain(storagetesting.RunTestListPaging),
		"GetListNonRecursive": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, s.increase(), s)
		},
		"GetListRecursivePrefix": plain(storagetesting.RunTestGetListRecursivePrefix),
		"KeySchema":              plain(storagetesting.RunTestKeySchema),
		"GuaranteedUpdate": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, s, s.stored)
		},
		"GuaranteedUpdateWithTTL":                   plain(storagetesting.RunTestGuaranteedUpdateWithTTL),
		"GuaranteedUpdateWithConflict":              plain(storagetesting.RunTestGuaranteedUpdateWithConflict),
		"GuaranteedUpdateWithSuggestionAndConflict": plain(storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict),
		"List": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestList(ctx, t, s, s.compactAndWrite, false, nil)
		},
		"ConsistentList": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestConsistentList(ctx, t, s, s.increase(), false, true, false)
		},
		"CompactRevision": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestCompactRevision(ctx, t, s, s.increase(), s.compact)
		},
		"ListContinuation": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestListContinuation(ctx, t, s, noCalls)
		},
		"ListPaginationRareObject": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, s, noCalls)
		},
		"ListContinuationWithFilter": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, s, noCalls)
		},
		"NamespaceScopedList": plain(storagetesting.RunTestNamespaceScopedList),
		"ListInconsistentContinuation": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, s, s.compact)
		},
		"ListResourceVersionMatch": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, s)
		},
		"Stats": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestStats(ctx, t, s, podResource().Codec, identity.NewEncryptCheckTransformer(), true)
		},
		"Watch":                plain(storagetesting.RunTestWatch),
		"ClusterScopedWatch":   plain(storagetesting.RunTestClusterScopedWatch),
		"NamespaceScopedWatch": plain(storagetesting.RunTestNamespaceScopedWatch),
		"DeleteTriggerWatch":   plain(storagetesting.RunTestDeleteTriggerWatch),
		"WatchFromZero": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestWatchFromZero(ctx, t, s, s.compact)
		},
		"WatchFromNonZero":                   plain(storagetesting.RunTestWatchFromNonZero),
		"DelayedWatchDelivery":               plain(storagetesting.RunTestDelayedWatchDelivery),
		"WatchContextCancel":                 plain(storagetesting.RunTestWatchContextCancel),
		"WatcherTimeout":                     plain(storagetesting.RunTestWatcherTimeout),
		"WatchDeleteEventObjectHaveLatestRV": plain(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV),
		"WatchInitializationSignal":          plain(storagetesting.RunTestWatchInitializationSignal),
		"ProgressNotify": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunOptionalTestProgressNotify(ctx, t, s, s.increase())
		},
		"WatchDispatchBookmarkEvents": func(ctx context.Context, t *testing.T, s subject) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, s, true)
		},
		"WatchBookmarksWithCorrectResourceVersion": plain(storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion),
		"SendInitialEventsBackwardCompatibility":   plain(storagetesting.RunSendInitialEventsBackwardCompatibility),
		"WatchSemantics":                           plain(storagetesting.RunWatchSemantics),
		"WatchSemanticInitialEventsExtended":       plain(storagetesting.RunWatchSemanticInitialEventsExtended),
		"WatchListMatchSingle":                     plain(storagetesting.RunWatchListMatchSingle),
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			run(t.Context(), t, newSubject(t))
		})
	}
}

func plain(run func(context.Context, *testing.T, storage.Interface)) func(context.Context, *testing.T, subject) {
	return func(ctx context.Context, t *testing.T, s subject) { run(ctx, t, s) }
}
