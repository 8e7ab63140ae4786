package workload_test

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/scheme"
	"coracle/internal/workload"
)

// made returns an object of a kind of workload, as the API would decode it.
func made(t *testing.T, res resource.Resource, selector string) object.Object {
	t.Helper()
	o, err := scheme.Scheme.New(res.GVK())
	if err != nil {
		t.Fatal(err)
	}
	text := `{"metadata": {"name": "web"}, "spec": {"replicas": 7, "selector": ` + selector + `,
		"template": {"metadata": {"labels": {"app": "web"}}}},
		"status": {"availableReplicas": 3, "updatedReplicas": 2, "numberAvailable": 3, "updatedNumberScheduled": 2,
			"desiredNumberScheduled": 7, "numberMisscheduled": 1}}`
	if err := json.Unmarshal([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o.(object.Object)
}

// TestRows: each row says where the fields are that the API calls so, and each kind whose controller makes pods or sets of
// them has a row.
func TestRows(t *testing.T) {
	for _, k := range workload.Kinds() {
		t.Run(k.Resource.Kind, func(t *testing.T) {
			selector := `{"matchLabels": {"app": "web"}}`
			if k.Resource == resource.ReplicationControllers {
				selector = `{"app": "web"}`
			}
			o := made(t, k.Resource, selector)
			if k.Controller.For != k.Resource || k.Controller.Plan == nil {
				t.Errorf("the controller plans for %v", k.Controller.For)
			}
			if row := workload.Of(o); row == nil || row.Resource != k.Resource {
				t.Errorf("the row of %T is %v", o, row)
			}
			if tpl := k.Template(o); tpl == nil || tpl.Labels["app"] != "web" {
				t.Errorf("template: %v", tpl)
			}
			if s, err := k.Selector(o); err != nil || !s.Matches(labels.Set{"app": "web"}) || s.Matches(labels.Set{"app": "db"}) {
				t.Errorf("selector: %v, %v", s, err)
			}
			p := k.Progress(o)
			if p.Wanted != 7 || p.Available != 3 || p.Revisions && p.Updated != 2 {
				t.Errorf("progress: %+v", p)
			}
			n, scaled := k.Scale(o)
			if daemon := k.Resource == resource.DaemonSets; scaled == daemon || scaled && n != 7 {
				t.Errorf("scale: %d, %v", n, scaled)
			}
			if k.SetScale(o, nil); scaled {
				if n, _ = k.Scale(o); n != 1 {
					t.Errorf("a scale that is not given is 1, not %d", n)
				}
			}
		})
	}
	if row := workload.Of(&corev1.Pod{}); row != nil {
		t.Errorf("a pod is no workload, not a %v", row.Resource)
	}
	if have, want := len(workload.Controllers()), len(workload.Kinds()); have != want {
		t.Errorf("%d controllers for %d kinds", have, want)
	}
}
