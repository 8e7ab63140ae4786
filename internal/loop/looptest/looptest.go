// Package looptest runs controllers against a cluster in memory, for the tests of planners.
//
// It owns the wiring of a loop to a fake cluster and its end; called within a testing/synctest
// bubble, a test waits for rest with synctest.Wait. It refuses to be imported by anything but
// tests.
package looptest

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// Cluster is a fake cluster with controllers at work.
type Cluster struct {
	*fake.Cluster
	// View is what the controllers see; it follows every kind.
	View *view.View
	Loop *loop.Loop
	t    testing.TB
}

// Run starts the controllers; they end with the test, which fails if one of them changed an
// object that is shared.
func Run(t testing.TB, c *fake.Cluster, controllers ...plan.Controller) *Cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := view.New()
	l := loop.New(c, v, controllers, loop.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	shared := watchShared(v)
	f := view.Follow(ctx, c, v, resource.All()...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, f.Synced())
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		<-f.Done()
		if spoilt := shared.spoilt(); len(spoilt) > 0 {
			t.Errorf("a planner changed shared objects: %v", spoilt)
		}
	})
	return &Cluster{Cluster: c, View: v, Loop: l, t: t}
}

// Make creates an object and returns it as stored.
func Make[T object.Object](c *Cluster, obj T) T {
	c.t.Helper()
	o, err := c.Create(c.t.Context(), obj)
	if err != nil {
		c.t.Fatalf("create %s: %v", object.KeyOf(obj), err)
	}
	return o.(T)
}

// Find reads an object; nil when there is none.
func Find[T object.Object](c *Cluster, res resource.Resource, namespace, name string) (found T) {
	o, err := c.Get(c.t.Context(), res, namespace, name)
	if err != nil {
		return found
	}
	return o.(T)
}

// Edit changes an object and its status, as two writes; what others write in between stays.
func Edit[T object.Object](c *Cluster, res resource.Resource, namespace, name string, change func(T)) T {
	c.t.Helper()
	var last object.Object
	for _, subresource := range []string{"", "status"} {
		for {
			o, err := c.Get(c.t.Context(), res, namespace, name)
			if apierrors.IsNotFound(err) && last != nil {
				return last.(T) // the first write let it go
			}
			if err != nil {
				c.t.Fatal(err)
			}
			next := o.DeepCopyObject().(T)
			change(next)
			if o, err = c.Update(c.t.Context(), next, subresource); err == nil {
				last = o
				break
			}
			if apierrors.IsNotFound(err) && last != nil {
				return last.(T) // it went between the read and the write
			}
			if !apierrors.IsConflict(err) {
				c.t.Fatalf("edit %s: %v", object.KeyOf(next), err)
			}
		}
	}
	return last.(T)
}

// Remove deletes an object; an empty policy is the kind's own.
func Remove(c *Cluster, obj object.Object, policy metav1.DeletionPropagation) {
	c.t.Helper()
	var opts metav1.DeleteOptions
	if policy != "" {
		opts.PropagationPolicy = &policy
	}
	if _, err := c.Delete(c.t.Context(), object.RefOf(obj), opts); err != nil {
		c.t.Fatalf("delete %s: %v", object.RefOf(obj), err)
	}
}

// Names lists the names of a kind's objects.
func Names(c *Cluster, res resource.Resource, namespace string) []string {
	var out []string
	for _, o := range c.View.List(res, namespace) {
		out = append(out, o.GetName())
	}
	return out
}

// Owner is a controlling reference to an object, as controllers set it.
func Owner(obj object.Object) metav1.OwnerReference {
	yes := true
	gvk := resource.Of(obj).GVK()
	return metav1.OwnerReference{
		APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Name: obj.GetName(),
		UID: obj.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes,
	}
}

// Reasons lists the reasons of the events about an object, oldest first.
func Reasons(c *Cluster, obj object.Object) []string {
	var out []string
	for _, e := range Events(c, obj) {
		out = append(out, e.Reason)
	}
	return out
}

// Rest waits, within a synctest bubble, until the controllers rest, and lets what conflicted be
// tried again: a tenth of a second of the bubble's time.
func Rest() {
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
}

// Settle lets a minute of a synctest bubble's time pass, for what is tried again after a pause.
func Settle(c *Cluster) {
	c.t.Helper()
	time.Sleep(time.Minute)
	synctest.Wait()
}
