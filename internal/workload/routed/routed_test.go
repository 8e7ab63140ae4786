package routed_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/drain"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
	"coracle/internal/workload/routed"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a rollout at its middle: an old pod and a new one that has just become ready, behind a service, and two nodes.
type world struct {
	*view.View
	revision uint64
}

func newWorld() *world {
	w := &world{View: view.New(routed.Indexes()...)}
	w.put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}})
	for _, name := range []string{"n1", "n2"} {
		w.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}})
		w.acknowledge(name, 1)
	}
	w.put(pod("old"))
	w.put(pod("new"))
	return w
}

func pod(name string) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "d", Name: name, Labels: map[string]string{"app": "web", "pod-template-hash": name},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-" + name, UID: "u", Controller: &yes}},
		},
		Status: corev1.PodStatus{PodIP: "10.1.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(start)}}},
	}
}

func (w *world) put(o object.Object) view.Change {
	w.revision++
	o.SetResourceVersion(fmt.Sprint(w.revision))
	return w.Apply(view.Event{Type: watch.Modified, Object: o})
}

func (w *world) acknowledge(node string, revision uint64) view.Change {
	return w.put(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Namespace: corev1.NamespaceNodeLease, Name: node, Annotations: map[string]string{drain.Routed: fmt.Sprint(revision)},
	}})
}

// show writes a slice that has both pods, the new one awaited or not, and returns its revision.
func (w *world) show(awaited string) uint64 {
	yes := true
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}
	if awaited != "" {
		s.Annotations = map[string]string{drain.Awaited: awaited}
	}
	for _, name := range []string{"old", "new"} {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Conditions: discoveryv1.EndpointConditions{Ready: &yes}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "d", Name: name},
		})
	}
	w.put(s)
	return w.revision
}

func TestUntil(t *testing.T) {
	end := start.Add(drain.DefaultTimeout)
	for name, c := range map[string]struct {
		change func(w *world)
		after  time.Duration
		want   time.Time
	}{
		"the slices do not say so yet":        {func(*world) {}, time.Second, end},
		"no node has acknowledged":            {func(w *world) { w.show("new") }, time.Second, end},
		"one node has not":                    {func(w *world) { w.acknowledge("n1", w.show("other,new")) }, time.Second, end},
		"all have":                            {func(w *world) { at := w.show("new"); w.acknowledge("n1", at); w.acknowledge("n2", at+1) }, time.Second, time.Time{}},
		"nobody is to":                        {func(w *world) { w.show("") }, time.Second, time.Time{}},
		"all have had their time":             {func(*world) {}, drain.DefaultTimeout, time.Time{}},
		"the pod says how long":               {func(w *world) { p := pod("new"); p.Annotations = map[string]string{drain.Timeout: "5s"}; w.put(p) }, 4 * time.Second, start.Add(5 * time.Second)},
		"the pod says not at all":             {func(w *world) { p := pod("new"); p.Annotations = map[string]string{drain.Timeout: "0s"}; w.put(p) }, 0, time.Time{}},
		"no service selects it":               {func(w *world) { p := pod("new"); p.Labels["app"] = "db"; w.put(p) }, 0, time.Time{}},
		"the others are of the same revision": {func(w *world) { p := pod("old"); p.Labels["pod-template-hash"] = "new"; w.put(p) }, 0, time.Time{}},
		"it goes":                             {func(w *world) { p := pod("new"); p.DeletionTimestamp = &metav1.Time{Time: start}; w.put(p) }, 0, time.Time{}},
		"its service publishes all": {func(w *world) {
			w.put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, PublishNotReadyAddresses: true}})
		}, 0, time.Time{}},
		"who has not is not ready": {func(w *world) {
			w.acknowledge("n1", w.show("new"))
			w.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})
		}, time.Second, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.change(w)
			o, _ := w.Get(resource.Pods, "d", "new")
			w.Read(func(r object.Reader) {
				if got := routed.New(r, start.Add(c.after)).Until(o.(*corev1.Pod)); !got.Equal(c.want) {
					t.Errorf("until %v, want %v", got, c.want)
				}
				at, ready := routed.New(r, start.Add(c.after)).Available(o.(*corev1.Pod), 1)
				if want := start.Add(time.Second); !ready || c.want.IsZero() && !at.Equal(want) || !c.want.IsZero() && !at.Equal(c.want) {
					t.Errorf("available at %v %t", at, ready)
				}
			})
		})
	}
}

// TestWatches: a rollout is looked at again when the last node has acknowledged what it waits for, and not for what others say.
func TestWatches(t *testing.T) {
	w := newWorld()
	concerned := func(ch view.Change, kind string) (keys []object.Key) {
		w.Read(func(r object.Reader) {
			for _, watch := range routed.Watches(kind) {
				if watch.Resource == ch.Resource {
					keys = append(keys, watch.Keys(r, ch.Before, ch.After)...)
				}
			}
		})
		return keys
	}
	web := []object.Key{{Namespace: "d", Name: "web-new"}}
	at := w.show("new,gone")
	for _, step := range []struct {
		node string
		to   uint64
		want []object.Key
	}{{"n1", at - 1, nil}, {"n1", at, nil}, {"n2", at - 1, nil}, {"n2", at + 1, web}, {"n2", at + 2, nil}, {"n1", at + 2, nil}} {
		ch := w.acknowledge(step.node, step.to)
		if got := concerned(ch, "ReplicaSet"); !slices.Equal(got, step.want) {
			t.Errorf("%s comes to %d of %d: %v is looked at, want %v", step.node, step.to, at, got, step.want)
		}
		if got := concerned(ch, "StatefulSet"); len(got) > 0 {
			t.Errorf("%s comes to %d of %d: %v of another kind is looked at", step.node, step.to, at, got)
		}
	}
	if ch := (view.Change{Resource: resource.Leases, After: &coordinationv1.Lease{}}); len(concerned(ch, "ReplicaSet")) > 0 {
		t.Error("a lease of somebody else's")
	}
}
