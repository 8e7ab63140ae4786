package objects

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
)

func TestHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		cluster := fake.New()
		var away atomic.Bool
		cluster.Fail = func(string, object.Ref, string) error {
			if away.Load() {
				return errors.New("connection refused")
			}
			return nil
		}
		hub := NewHub(ctx, cluster, slog.New(slog.DiscardHandler))
		ref := Ref{Resource: resource.ConfigMaps, Namespace: "ns", Name: "cm"}
		var one, two int
		stopOne := hub.Subscribe(ref, func() { one++ })
		stopTwo := hub.Subscribe(ref, func() { two++ })
		settle := func(want, wantTwo int, what string) {
			t.Helper()
			synctest.Wait()
			if one != want || two != wantTwo {
				t.Errorf("%s: told %d and %d times, want %d and %d", what, one, two, want, wantTwo)
			}
		}
		settle(1, 1, "the first look")
		if _, err := hub.Get(ctx, ref); !apierrors.IsNotFound(err) {
			t.Errorf("an object that is not there: %v", err)
		}
		set := func(value string) {
			t.Helper()
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cm"}, Data: map[string]string{"a": value}}
			_, err := cluster.Create(ctx, cm)
			if apierrors.IsAlreadyExists(err) {
				_, err = cluster.Update(ctx, cm, "")
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		set("1")
		settle(2, 2, "made")
		if got, err := hub.Get(ctx, ref); err != nil || got.(*corev1.ConfigMap).Data["a"] != "1" {
			t.Errorf("%v %v", got, err)
		}
		three := 0
		stopThree := hub.Subscribe(ref, func() { three++ })
		synctest.Wait()
		if three != 1 {
			t.Errorf("a late subscriber is told %d times", three)
		}
		stopThree()
		stopTwo()
		set("2")
		settle(3, 2, "edited after one has left")

		// A watch that breaks is made again, and what happened meanwhile is told once.
		away.Store(true)
		cluster.Compact()
		away.Store(false)
		set("3")
		time.Sleep(time.Minute)
		settle(4, 2, "edited while the watch was broken")

		before := cluster.Calls()["watch"]
		stopOne()
		synctest.Wait()
		set("4")
		time.Sleep(time.Hour)
		if after := cluster.Calls()["watch"]; after != before {
			t.Errorf("a watch nobody waits for goes on")
		}
		if got, err := hub.Get(ctx, ref); err != nil || got.(*corev1.ConfigMap).Data["a"] != "4" {
			t.Errorf("without a watch: %v %v", got, err)
		}
	})
}
