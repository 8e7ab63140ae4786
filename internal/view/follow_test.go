package view_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

func create(t *testing.T, c *fake.Cluster, name string) {
	t.Helper()
	if _, err := c.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}}); err != nil {
		t.Fatal(err)
	}
}

func names(v *view.View) []string {
	var out []string
	for _, o := range v.List(resource.ConfigMaps, "") {
		out = append(out, o.GetName())
	}
	return out
}

func TestFollowSeesListThenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, v := fake.New(), view.New()
		create(t, c, "before")
		f := view.Follow(ctx, c, v, resource.ConfigMaps, resource.Pods)
		<-f.Synced()
		create(t, c, "after")
		synctest.Wait()
		if d := cmp.Diff([]string{"after", "before"}, names(v)); d != "" {
			t.Error(d)
		}
		if got, want := v.Revision(resource.ConfigMaps), c.Revision(); got != want {
			t.Errorf("revision %d, want %d", got, want)
		}
		cancel()
		<-f.Done()
	})
}

// TestFollowRelistsWhenTooOld refuses the watch until the history it would resume from is gone.
func TestFollowRelistsWhenTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, v := fake.New(), view.New()
		create(t, c, "a")
		create(t, c, "b")
		var refused atomic.Bool
		refused.Store(true)
		c.Fail = func(verb string, _ object.Ref, _ string) error {
			if verb == "watch" && refused.Load() {
				return errors.New("connection refused")
			}
			return nil
		}
		f := view.Follow(ctx, c, v, resource.ConfigMaps)
		<-f.Synced()
		var told []string
		v.Subscribe(func(ch view.Change) {
			if ch.Before != nil || ch.After != nil {
				told = append(told, fmt.Sprint(ch.Before != nil, ch.After != nil))
			}
		})
		if _, err := c.Delete(ctx, object.Ref{Resource: resource.ConfigMaps, Key: object.Key{Namespace: "d", Name: "a"}}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		create(t, c, "c")
		c.Compact()
		if d := cmp.Diff([]string{"a", "b"}, names(v)); d != "" {
			t.Errorf("before the watch is back: %s", d)
		}
		refused.Store(false)
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if d := cmp.Diff([]string{"b", "c"}, names(v)); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff([]string{"false true", "true false"}, told); d != "" {
			t.Error(d)
		}
		if got := c.Calls()["list"]; got != 2 {
			t.Errorf("listed %d times, want 2", got)
		}
		cancel()
		<-f.Done()
	})
}
