package endpoint_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"coracle/internal/cluster/endpoint"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// echoes is a cluster of one service, of whose changes is written down whether the planner of slices is asked to look.
type echoes struct {
	controller plan.Controller
	view       *view.View
	service    *corev1.Service
	revision   int
	// asked counts the changes of slices that ask for a look.
	asked int
}

func newEchoes() *echoes {
	e := &echoes{controller: endpoint.Controllers()[0], view: view.New(), service: service()}
	e.view.AddIndexes(e.controller.Indexes...)
	e.view.Subscribe(func(ch view.Change) {
		for _, w := range e.controller.Watches {
			if ch.Resource == resource.EndpointSlices && w.Resource == ch.Resource {
				e.view.Read(func(r object.Reader) { e.asked += min(1, len(w.Keys(r, ch.Before, ch.After))) })
			}
		}
	})
	e.service.UID = "web"
	e.put(e.service)
	return e
}

func (e *echoes) put(o object.Object) {
	e.revision++
	o.SetResourceVersion(fmt.Sprint(e.revision))
	e.view.Apply(view.Event{Type: watch.Modified, Object: o})
}

func (e *echoes) remove(ref object.Ref) {
	o, ok := e.view.Get(ref.Resource, ref.Namespace, ref.Name)
	if !ok {
		return
	}
	gone := o.DeepCopyObject().(object.Object)
	e.revision++
	gone.SetResourceVersion(fmt.Sprint(e.revision))
	e.view.Apply(view.Event{Type: watch.Deleted, Object: gone})
}

func (e *echoes) plan() (p plan.Plan) {
	e.view.Read(func(r object.Reader) { p = e.controller.Plan(plan.Input{Reader: r, Key: object.KeyOf(e.service)}) })
	return p
}

// settle carries out plans until there is none.
func (e *echoes) settle(t interface{ Fatalf(string, ...any) }) {
	for range 5 {
		p := e.plan()
		if len(p.Actions) == 0 {
			return
		}
		for i, a := range p.Actions {
			switch a := a.(type) {
			case plan.Create:
				o := a.Object.DeepCopyObject().(object.Object)
				o.SetName(fmt.Sprintf("slice-%d-%d", e.revision, i))
				o.SetUID(types.UID(o.GetName()))
				e.put(o)
			case plan.Update:
				e.put(a.Object.DeepCopyObject().(object.Object))
			case plan.Delete:
				e.remove(a.Object)
			}
		}
	}
	t.Fatalf("there is always more to do")
}

func (e *echoes) pod(t *rapid.T, i int) {
	p := pod(fmt.Sprint("p", i), fmt.Sprintf("10.1.0.%d", rapid.IntRange(1, 40).Draw(t, "address")), rapid.Bool().Draw(t, "ready"))
	p.UID = types.UID(fmt.Sprint(p.Name, "-", rapid.IntRange(0, 1).Draw(t, "life")))
	p.Spec.Containers[0].Ports[0].ContainerPort = int32(8080 + rapid.IntRange(0, 1).Draw(t, "port"))
	switch rapid.IntRange(0, 9).Draw(t, "fate") {
	case 0:
		p.Status.Phase = corev1.PodFailed
	case 1:
		p.Labels = map[string]string{"app": "other"}
	case 2:
		p.Status.PodIP = ""
	}
	e.put(p)
}

// meddle is somebody else's change of a slice.
func (e *echoes) meddle(t *rapid.T) {
	all := e.view.List(resource.EndpointSlices, "d")
	if len(all) == 0 {
		return
	}
	pick := func() *discoveryv1.EndpointSlice {
		return rapid.SampledFrom(all).Draw(t, "slice").DeepCopyObject().(*discoveryv1.EndpointSlice)
	}
	s, other := pick(), pick()
	at := func(s *discoveryv1.EndpointSlice) *discoveryv1.Endpoint {
		if len(s.Endpoints) == 0 {
			return &discoveryv1.Endpoint{}
		}
		return &s.Endpoints[rapid.IntRange(0, len(s.Endpoints)-1).Draw(t, "endpoint")]
	}
	rapid.SampledFrom([]func(){
		func() { at(s).Addresses = []string{"10.9.9.9"} },
		func() { at(s).Conditions.Ready = nil },
		func() { at(s).TargetRef = nil },
		func() { s.Endpoints = append(s.Endpoints, *at(other)) },
		func() { s.Endpoints = s.Endpoints[:len(s.Endpoints)/2] },
		func() { s.Endpoints = nil },
		func() { s.Labels["team"] = "b" },
		func() { delete(s.Labels, discoveryv1.LabelServiceName) },
		func() { delete(s.Labels, discoveryv1.LabelManagedBy) },
		func() { s.OwnerReferences = nil },
		func() { s.Ports = []discoveryv1.EndpointPort{{Name: new("other"), Port: new(int32(9))}} },
		func() { s.Annotations = map[string]string{"a": "b"} },
		func() {},
	}).Draw(t, "how")()
	e.put(s)
}

// TestEchoAsksForNothing: where nothing is left to do, a change of a slice that leaves something to do asks for a look, whatever it
// is; and the planner's own writes, but for slices that come or go, ask for none.
func TestEchoAsksForNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := newEchoes()
		for i := range rapid.IntRange(0, 40).Draw(t, "pods") {
			e.pod(t, i)
		}
		e.settle(t)
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			if rapid.Bool().Draw(t, "of a pod") {
				e.pod(t, rapid.IntRange(0, 45).Draw(t, "pod")) // it is asked about by its own change
				e.settle(t)
				continue
			}
			before := e.asked
			e.meddle(t)
			if left := e.plan().Actions; len(left) > 0 && e.asked == before {
				t.Fatalf("%d writes are left to do, and nobody asked: %v", len(left), left)
			}
			e.settle(t)
		}
	})
}

// TestOwnWriteIsNoNews: an endpoint that comes, changes or goes asks for one look, not for another when it has been written.
func TestOwnWriteIsNoNews(t *testing.T) {
	e := newEchoes()
	put := func(name, ip string, ready bool) {
		p := pod(name, ip, ready)
		p.UID = types.UID(name)
		e.put(p)
		e.settle(t)
	}
	for i := range 30 {
		put(fmt.Sprint("p", i), fmt.Sprintf("10.1.0.%d", i+1), false)
	}
	e.asked = 0
	put("late", "10.1.1.1", false)
	put("late", "10.1.1.1", true)
	put("p3", "10.1.1.3", true)
	e.remove(object.Ref{Resource: resource.Pods, Key: object.Key{Namespace: "d", Name: "p4"}})
	e.settle(t)
	if e.asked != 0 {
		t.Errorf("the controller's own writes asked for %d looks, want none", e.asked)
	}
}
