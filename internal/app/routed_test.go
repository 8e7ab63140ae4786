package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"coracle/internal/drain"
	"coracle/internal/view"
)

// fleetOf is a snapshot of nodes that acknowledge.
type fleetOf struct {
	snapshot *view.View
	revision uint64
}

func (f *fleetOf) node(name string, ready bool) {
	f.revision++
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	f.snapshot.Apply(view.Event{Type: watch.Modified, Revision: f.revision, Object: &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}},
	}})
}

func (f *fleetOf) lease(name string, revision int) {
	f.revision++
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
	if revision >= 0 {
		l.Annotations = map[string]string{drain.Routed: fmt.Sprint(revision)}
	}
	f.snapshot.Apply(view.Event{Type: watch.Modified, Revision: f.revision, Object: l})
}

func (f *fleetOf) gone(name string) {
	f.revision++
	f.snapshot.Apply(view.Event{Type: watch.Deleted, Revision: f.revision, Object: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}})
}

// TestRoutes: the answer comes when the last node that counts has come so far, and at the end of the asker's time it names
// those who have not.
func TestRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := &fleetOf{snapshot: view.New()}, newRoutes()
		if _, err := r.await(t.Context(), 1); err == nil {
			t.Error("an answer before anything is known")
		}
		for _, name := range []string{"a", "b", "c", "lame", "plain"} {
			f.node(name, name != "lame")
			f.lease(name, 10)
		}
		f.lease("plain", -1) // it leads nobody
		f.lease("lame", 3)
		whole := make(chan struct{})
		close(whole)
		r.follow(t.Context(), f.snapshot, whole)

		if got, err := r.await(t.Context(), 10); err != nil || got.All != 10 || len(got.Behind) > 0 {
			t.Errorf("at 10: %+v, %v", got, err)
		}
		ask := func(revision uint64, limit time.Duration) <-chan routed {
			out := make(chan routed, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				got, err := r.await(ctx, revision)
				if err != nil {
					t.Error(err)
				}
				out <- got
			}()
			synctest.Wait()
			return out
		}
		late, soon := ask(20, time.Second), ask(12, time.Hour)
		f.lease("a", 12)
		f.lease("b", 30)
		synctest.Wait()
		if len(soon)+len(late) > 0 {
			t.Fatal("answered before c has come so far")
		}
		f.lease("c", 12)
		synctest.Wait()
		if got := <-soon; got.All != 12 || len(got.Behind) > 0 {
			t.Errorf("at 12: %+v", got)
		}
		time.Sleep(2 * time.Second)
		if got := <-late; got.All != 12 || !slices.Equal(got.Behind, []string{"a", "c"}) {
			t.Errorf("late: %+v", got)
		}

		// Nodes that go, fail or are taken away are not waited for.
		last := ask(40, time.Hour)
		f.node("a", false)
		f.lease("b", 41)
		f.gone("c")
		synctest.Wait()
		if got := <-last; got.All != 41 || len(got.Behind) > 0 {
			t.Errorf("last: %+v", got)
		}
		if len(r.waiting) > 0 {
			t.Errorf("%d still wait", len(r.waiting))
		}
	})
}

// TestAskRouted: a node asks over HTTP, and is told what is wrong with a question.
func TestAskRouted(t *testing.T) {
	f, r := &fleetOf{snapshot: view.New()}, newRoutes()
	f.node("a", true)
	f.lease("a", 7)
	whole := make(chan struct{})
	close(whole)
	r.follow(t.Context(), f.snapshot, whole)
	server := httptest.NewServer(r)
	defer server.Close()
	ask, err := askRouted(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if all, behind, err := ask(t.Context(), 7); err != nil || all != 7 || len(behind) > 0 {
		t.Errorf("%d %v %v", all, behind, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), routedAnswer+50*time.Millisecond)
	defer cancel()
	if all, behind, err := ask(ctx, 8); err != nil || all != 7 || !slices.Equal(behind, []string{"a"}) {
		t.Errorf("late: %d %v %v", all, behind, err)
	}
	for _, query := range []string{"", "?revision=x", "?revision=1&timeout=soon", "?revision=1&timeout=-1s", "?revision=1&timeout=1h"} {
		resp, err := http.Get(server.URL + drain.Path + query)
		if err != nil {
			t.Fatal(err)
		}
		var status metav1.Status
		if err := json.NewDecoder(resp.Body).Decode(&status); err != nil || resp.StatusCode != http.StatusBadRequest || status.Message == "" {
			t.Errorf("%q: %d %q %v", query, resp.StatusCode, status.Message, err)
		}
		resp.Body.Close()
	}
}
