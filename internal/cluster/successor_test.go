package cluster_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/workload/succession"
)

var deletions = flag.Int("successor.deletions", 50, "how many pods of a StatefulSet are deleted by clients that wait")

// hung is how long a client waits before it counts as one that would wait for ever.
const hung = 10 * time.Second

// waitByWatch waits for the end of a deletion as kubectl did up to 1.36: it reads the object, is content when that is gone
// or another, and else lists the name and watches it until it sees a deletion, whatever object the list showed. late is
// the time that a loaded machine takes between its requests.
func (w *whole) waitByWatch(ctx context.Context, ref object.Ref, uid types.UID, late time.Duration) error {
	o, err := w.Get(ctx, ref.Resource, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) || err == nil && o.GetUID() != uid {
		return nil
	}
	if err != nil {
		return err
	}
	read := time.Now()
	<-time.After(late)
	opts := client.ListOptions{Namespace: ref.Namespace, FieldSelector: "metadata.name=" + ref.Name}
	items, revision, err := w.List(ctx, ref.Resource, opts)
	listed := time.Since(read)
	if err != nil || len(items) == 0 {
		return err
	}
	opts.Revision = revision
	events, err := w.Watch(ctx, ref.Resource, opts)
	if err != nil {
		return err
	}
	defer events.Stop()
	for {
		select {
		case e := <-events.ResultChan():
			if e.Type == watch.Deleted {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the list showed %s of UID %s, the deleted one was %s: it waits for ever (listed %s after it was read)",
				ref, items[0].GetUID(), uid, listed)
		}
	}
}

// waitByPoll waits as kubectl replace --force does: it asks for the name once a second until there is none.
func (w *whole) waitByPoll(ctx context.Context, ref object.Ref, late time.Duration) error {
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for {
		<-time.After(late)
		if _, err := w.Get(ctx, ref.Resource, ref.Namespace, ref.Name); apierrors.IsNotFound(err) {
			return nil
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return fmt.Errorf("%s was never seen to be gone", ref)
		}
	}
}

// TestDeletionsAreSeen: each client that deletes a pod of a StatefulSet and waits for it, comes to an end, though the
// successor bears the same name; and the successor comes soon.
func TestDeletionsAreSeen(t *testing.T) {
	const ns = "shop"
	replicas := min(*deletions, 50)
	w := start(t, 3)
	w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	w.until("the default account", func() bool {
		_, ok := w.view.Get(resource.ServiceAccounts, ns, "default")
		return ok
	})
	w.make(&appsv1.StatefulSet{ObjectMeta: in(ns, "db"), Spec: appsv1.StatefulSetSpec{
		Replicas: ptr(int32(replicas)), ServiceName: "db", Selector: selector("db"), Template: graceful("db"),
		PodManagementPolicy: appsv1.ParallelPodManagement,
	}})
	var clients sync.WaitGroup
	for n := range replicas {
		clients.Go(func() {
			for i := n; i < *deletions; i += replicas {
				if err := w.deleteAndWait(object.Ref{Resource: resource.Pods, Key: object.Key{Namespace: ns, Name: fmt.Sprintf("db-%d", n)}}, i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	w.sound()
}

// graceful is a template whose pods are stopped by their node before they go.
func graceful(app string) (t corev1.PodTemplateSpec) {
	t = template(app)
	t.Spec.TerminationGracePeriodSeconds = ptr(int64(1))
	return t
}

// deleteAndWait waits for a pod to be there, deletes it, and waits as some client does.
func (w *whole) deleteAndWait(ref object.Ref, nth int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*hung)
	defer cancel()
	ready := func() object.Object {
		o, err := w.Get(ctx, ref.Resource, ref.Namespace, ref.Name)
		if err != nil || !podReady(o) {
			return nil
		}
		return o
	}
	began, look := time.Now(), time.NewTicker(20*time.Millisecond)
	defer look.Stop()
	pod := ready()
	for ; pod == nil; pod = ready() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("%s does not become ready within %s", ref, time.Since(began))
		}
	}
	ref.UID = pod.GetUID()
	waiting, done := context.WithTimeout(ctx, hung)
	defer done()
	if _, err := w.Delete(ctx, ref, metav1.DeleteOptions{}); err != nil {
		return err
	}
	late := time.Duration(rand.IntN(200)) * time.Millisecond
	if nth%5 == 4 {
		return w.waitByPoll(waiting, ref, late)
	}
	return w.waitByWatch(waiting, ref, ref.UID, late)
}

// TestPauseIsLongEnough: a client that polls once a second sees the name free, with room for slow requests.
func TestPauseIsLongEnough(t *testing.T) {
	if succession.Pause < 1200*time.Millisecond || succession.Pause >= plan.Recall {
		t.Errorf("a name stays free for %s; partings are remembered for %s", succession.Pause, plan.Recall)
	}
}
