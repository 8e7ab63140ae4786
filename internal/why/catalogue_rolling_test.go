package why_test

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// rollingFaults are about words that outlive their cause, and bounds that are no cause.
var rollingFaults = []fault{
	{
		name: "deployment: deleted with its dependents orphaned, and created again",
		plant: func(w *world) {
			w.make(node("n1", "4"), deploy(1))
			w.pods("web", ready)
			looptest.Remove(w.Cluster, looptest.Find[*appsv1.Deployment](w.Cluster, resource.Deployments, "default", "web"), metav1.DeletePropagationOrphan)
			w.settle()
			w.make(deploy(1))
			w.pods("web", ready)
			w.settle()
		},
		res: resource.Deployments, of: "web", state: plan.Steady, never: []string{"dependents"},
	},
	{
		name: "daemons: the first pod of a new template does not get ready",
		plant: func(w *world) {
			w.make(node("n1", "4"), node("n2", "4"), node("n3", "4"), daemon(probed))
			w.pods("agent", ready)
			edit(w, resource.DaemonSets, "agent", func(o object.Object) { containerOf(o).Image = "app:2" })
			w.endAll()
			w.pods("agent", onlyImage("app:2", unready))
		},
		res: resource.DaemonSets, of: "agent", state: plan.Waiting,
		kind: "Pod", object: "agent-", code: "ContainersNotReady", remedy: "probe of app does not pass",
		cure: func(w *world) { w.pods("agent", onlyImage("app:2", ready)) },
	},
	{
		name: "stateful: the update waits for a pod that does not get ready",
		plant: func(w *world) {
			w.make(node("n1", "4"), stateful(2, "", probed))
			w.pods("db-0", ready)
			w.pods("db-1", ready)
			edit(w, resource.StatefulSets, "db", func(o object.Object) { containerOf(o).Image = "app:2" })
			w.endAll()
			w.pods("db", onlyImage("app:2", unready))
		},
		res: resource.StatefulSets, of: "db", state: plan.Waiting,
		kind: "Pod", object: "db-1", code: "ContainersNotReady", remedy: "probe of app does not pass",
		cure: func(w *world) { w.pods("db-1", ready) },
	},
	{
		name: "deployment: paused in the middle",
		plant: func(w *world) {
			w.make(node("n1", "4"), deploy(1))
			w.pods("web", ready)
			edit(w, resource.Deployments, "web", func(o object.Object) {
				o.(*appsv1.Deployment).Spec.Paused = true
				containerOf(o).Image = "app:2"
			})
		},
		res: resource.Deployments, of: "web", state: plan.Waiting,
		kind: "Deployment", object: "web", code: "DeploymentPaused", remedy: "kubectl rollout resume deployment/web",
		cure: func(w *world) {
			edit(w, resource.Deployments, "web", func(o object.Object) { o.(*appsv1.Deployment).Spec.Paused = false })
		},
	},
	{
		name: "daemons: OnDelete",
		plant: func(w *world) {
			set := daemon()
			set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
			w.make(node("n1", "4"), set)
			w.pods("agent", ready)
			edit(w, resource.DaemonSets, "agent", func(o object.Object) { containerOf(o).Image = "app:2" })
		},
		res: resource.DaemonSets, of: "agent", state: plan.Waiting,
		kind: "DaemonSet", object: "agent", code: "OnDelete", remedy: "delete these pods",
		cure: func(w *world) {
			w.remove("agent-")
			w.endAll()
			w.pods("agent", ready)
		},
	},
	{
		name: "deployment: a pod is ready, and not yet for long enough",
		plant: func(w *world) {
			d := deploy(1)
			d.Spec.MinReadySeconds = 60
			w.make(node("n1", "4"), d)
			w.pods("web", ready)
		},
		res: resource.Deployments, of: "web", state: plan.Waiting,
		kind: "ReplicaSet", object: "web-", code: "MinReadySeconds", says: "60 seconds",
		cure: func(w *world) { w.beat(2 * time.Minute) },
	},
}
