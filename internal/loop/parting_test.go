package loop

import (
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// TestPartings: the witness tells who had an object deleted, for as long as it is remembered, and keeps nothing for longer.
func TestPartings(t *testing.T) {
	heir := func(o object.Object) bool { return o.GetName() != "stranger" }
	owner := plan.Controller{Name: "owner", For: resource.StatefulSets, Successions: []plan.Succession{{Resource: resource.Pods, Of: heir}}}
	other := plan.Controller{Name: "other", For: resource.StatefulSets}
	for _, tc := range []struct {
		name, pod  string
		controller *plan.Controller // who deletes it; nil is a user
		result     Result
		known      bool
		by         string
	}{
		{"a user", "p", nil, Result{}, true, ""},
		{"its controller", "p", &owner, Result{Object: podAt("p", 2)}, true, "owner"},
		{"another controller", "p", &other, Result{Object: podAt("p", 2)}, true, ""},
		{"a user just before its controller", "p", &owner, Result{Err: apierrors.NewNotFound(resource.Pods.GroupResource(), "p")}, true, ""},
		{"its controller, of a pod that it makes no successor of", "stranger", &owner, Result{Object: podAt("stranger", 2)}, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := NewCore([]plan.Controller{owner, other}, 1)
			v := view.New()
			c.Start(v)
			change := func(kind view.Event) { c.Changed(v, v.Apply(kind)) }
			pod := podAt(tc.pod, 1)
			change(view.Event{Type: "ADDED", Resource: resource.Pods, Object: pod, Revision: 1})
			if tc.controller != nil {
				run := Begin(Task{Controller: tc.controller, witness: c.witness}, always(plan.Plan{Actions: []plan.Action{plan.Delete{Object: object.RefOf(pod)}}}))
				run.Next()
				run.Done([]Result{tc.result}, time.Unix(0, 0))
			}
			c.Pass(3 * time.Second)
			change(view.Event{Type: "DELETED", Resource: resource.Pods, Object: pod, Revision: 3})
			p, known := c.Witness().Partings.Parted(resource.Pods, podKey(tc.pod))
			if known != tc.known || p.By != tc.by || known && (p.At != 3*time.Second || p.UID != pod.UID) {
				t.Errorf("parting %+v, known %v; want known %v, by %q", p, known, tc.known, tc.by)
			}
			c.Pass(3*time.Second + plan.Recall)
			if _, known := c.Witness().Partings.Parted(resource.Pods, podKey(tc.pod)); known {
				t.Error("a parting is remembered for longer than Recall")
			}
			if w := c.witness; len(w.parted)+len(w.recent)+len(w.deleting) > 0 {
				t.Errorf("kept: %v, %v, %v", w.parted, w.recent, w.deleting)
			}
		})
	}
}

// TestPartingsOfOneName: a name that is freed twice within Recall tells of the last object alone.
func TestPartingsOfOneName(t *testing.T) {
	c := NewCore([]plan.Controller{{Name: "owner", For: resource.StatefulSets, Successions: []plan.Succession{{Resource: resource.Pods}}}}, 1)
	v := view.New()
	c.Start(v)
	for i := range uint64(2) {
		pod := podAt("p", 2*i+1)
		pod.UID = []types.UID{"first", "second"}[i]
		c.Changed(v, v.Apply(view.Event{Type: "ADDED", Resource: resource.Pods, Object: pod, Revision: 2*i + 1}))
		c.witness.deletes("owner", []plan.Action{plan.Delete{Object: object.RefOf(pod)}})
		c.Pass(time.Duration(i) * time.Second)
		c.Changed(v, v.Apply(view.Event{Type: "DELETED", Resource: resource.Pods, Object: pod, Revision: 2*i + 2}))
	}
	if p, _ := c.Witness().Partings.Parted(resource.Pods, podKey("p")); p.UID != "second" || p.By != "owner" || len(c.witness.deleting) != 1 {
		t.Errorf("parting %+v, deleting %v", p, c.witness.deleting)
	}
	c.Pass(time.Hour)
	if w := c.witness; len(w.parted)+len(w.recent)+len(w.deleting) > 0 {
		t.Errorf("kept: %v, %v, %v", w.parted, w.recent, w.deleting)
	}
}
