package storetest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
)

// subject gives a backend the form upstream's tests ask for.
type subject struct{ Backend }

// UpdatePrefixTransformer satisfies upstream's interface. Our backends have no value transformers:
// there is nothing to revert.
func (subject) UpdatePrefixTransformer(storagetesting.PrefixTransformerModifier) func() {
	return func() {}
}

// increase makes revisions that are none of the pods'.
func (s subject) increase() storagetesting.IncreaseRVFunc {
	var n atomic.Int64
	return func(ctx context.Context, t *testing.T) int64 {
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", n.Add(1))}}
		if err := s.Other.Create(ctx, "/other/"+pod.Name, pod, nil, 0); err != nil {
			t.Fatal(err)
		}
		rev, err := s.GetCurrentResourceVersion(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return int64(rev)
	}
}

func (s subject) compact(_ context.Context, t *testing.T, rv string) {
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(rv)
	if err != nil {
		t.Fatal(err)
	}
	s.Compact(t, int64(rev))
}

// compactAndWrite compacts as upstream's compactor does, which leaves a write of its own.
func (s subject) compactAndWrite(ctx context.Context, t *testing.T, rv string) {
	s.compact(ctx, t, rv)
	s.increase()(ctx, t)
}

// stored checks that the stored object has no self link.
func (s subject) stored(ctx context.Context, t *testing.T, key string) {
	var pod example.Pod
	if err := s.Get(ctx, key, storage.GetOptions{}, &pod); err != nil {
		t.Fatalf("nothing stored at %s: %v", key, err)
	}
	if pod.SelfLink != "" {
		t.Errorf("stored object has self link %q", pod.SelfLink)
	}
}

func noCalls(*testing.T, uint64, uint64) {}

// Upstream runs the tests that Kubernetes runs against its own storages (k8s.io/apiserver/pkg/storage/testing). Left out are
// those that test what this store does not have: value transformers (TransformationFailure,
// WatchError, WatchErrorEventIsBlockingFurtherEvent, GuaranteedUpdateChecksStoredData, the stale
// case of GuaranteedUpdate) and deletion of objects that cannot be decoded (AllowUnsafeMalformedObjectDeletion).
func Upstream(t *testing.T, open Factory) {
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
			storagetesting.RunTestStats(ctx, t, s, Codec(), identity.NewEncryptCheckTransformer(), true)
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
			run(t.Context(), t, subject{open(t)})
		})
	}
}

func plain(run func(context.Context, *testing.T, storage.Interface)) func(context.Context, *testing.T, subject) {
	return func(ctx context.Context, t *testing.T, s subject) { run(ctx, t, s) }
}
