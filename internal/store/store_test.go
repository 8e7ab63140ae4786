package store_test

import (
	"testing"
	"time"

	"k8s.io/apiserver/pkg/util/flowcontrol"

	"coracle/internal/store"
	"coracle/internal/store/storetest"
)

func examplePods(prefix string) store.Resource {
	return store.Resource{
		Prefix: prefix, Codec: storetest.Codec(), New: storetest.NewPod, NewList: storetest.NewPodList,
		Index: storetest.Index(), WatchStarted: flowcontrol.WatchInitialized,
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

func backend(t testing.TB, s *store.Store) storetest.Backend {
	return storetest.Backend{
		Interface: collection(t, s, examplePods("/pods")),
		Other:     collection(t, s, examplePods("/other")),
		Compact:   func(_ testing.TB, rev int64) { s.Compact(rev) },
	}
}

func TestConformance(t *testing.T) {
	t.Run("Memory", func(t *testing.T) {
		storetest.Ours(t, func(t testing.TB) storetest.Backend {
			return backend(t, openStore(t, store.Config{BookmarkInterval: time.Second}))
		})
	})
	t.Run("Durable", func(t *testing.T) {
		storetest.Run(t, func(t testing.TB) storetest.Backend {
			return backend(t, openStore(t, store.Config{Dir: t.TempDir(), BookmarkInterval: time.Second}))
		})
	})
}
