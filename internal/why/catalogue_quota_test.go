package why_test

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

func memory(much string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Containers[0].Resources.Requests = corev1.ResourceList{"memory": apires.MustParse(much)}
	}
}

// replacing is a deployment that takes an old pod away before it makes a new one.
func replacing(replicas int32, change ...func(*corev1.PodSpec)) *appsv1.Deployment {
	d := deploy(replicas, change...)
	none, one := intstr.FromInt32(0), intstr.FromInt32(1)
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &none, MaxUnavailable: &one}
	return d
}

// quotaFaults are about what the API refuses.
var quotaFaults = []fault{
	{
		name: "deployment: a pod that ends frees the quota",
		plant: func(w *world) {
			w.admit()
			w.make(node("n1", "4"))
			w.limit("mem", corev1.ResourceList{"requests.memory": apires.MustParse("150Mi")})
			w.make(replacing(2, memory("60Mi")))
			w.count()
			w.pods("web", ready)
			edit(w, resource.Deployments, "web", func(o object.Object) { containerOf(o).Image = "app:2" })
			w.count()
		},
		res: resource.Deployments, of: "web", state: plan.Waiting, never: []string{"Stuck", "raise"},
		kind: "Pod", object: "web-", code: "Terminating",
		cure: func(w *world) { w.endAll(); w.settle() },
	},
	{
		name: "deployment: the quota is used up by pods that stay",
		plant: func(w *world) {
			w.admit()
			w.make(node("n1", "4"))
			w.limit("mem", corev1.ResourceList{"requests.memory": apires.MustParse("70Mi")})
			w.make(deploy(2, memory("60Mi")))
			w.count()
			w.pods("web", ready)
		},
		res: resource.Deployments, of: "web", state: plan.Stuck,
		kind: "ResourceQuota", object: "mem", code: "FailedCreate", says: "exceeded quota: mem",
		remedy: "raise the ResourceQuota mem (requests.memory to 120Mi at least)",
		cure: func(w *world) {
			edit(w, resource.ResourceQuotas, "mem", func(o object.Object) {
				o.(*corev1.ResourceQuota).Spec.Hard["requests.memory"] = apires.MustParse("120Mi")
			})
			w.count()
		},
	},
	{
		name: "stateful: the quota is used up",
		plant: func(w *world) {
			w.admit()
			w.make(node("n1", "4"))
			w.limit("pods", corev1.ResourceList{"pods": apires.MustParse("1")})
			w.make(stateful(2, ""))
			w.count()
			w.pods("db-0", ready)
			w.count()
			w.settle()
		},
		res: resource.StatefulSets, of: "db", state: plan.Stuck,
		kind: "ResourceQuota", object: "pods", code: "FailedCreate", says: "exceeded quota: pods",
		remedy: "raise the ResourceQuota pods (pods to 2 at least)",
		cure: func(w *world) {
			edit(w, resource.ResourceQuotas, "pods", func(o object.Object) { o.(*corev1.ResourceQuota).Spec.Hard["pods"] = apires.MustParse("2") })
			w.count()
		},
	},
	{
		name: "daemons: a pod that ends frees the quota",
		plant: func(w *world) {
			w.admit()
			w.make(node("n1", "4"))
			w.limit("pods", corev1.ResourceList{"pods": apires.MustParse("1")})
			w.make(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "first"}, Spec: template().Spec})
			w.count()
			w.pods("first", ready)
			w.remove("first")
			w.make(daemon())
			w.count()
		},
		res: resource.DaemonSets, of: "agent", state: plan.Waiting, never: []string{"Stuck", "raise"},
		kind: "Pod", object: "first", code: "Terminating",
		cure: func(w *world) { w.endAll(); w.settle() },
	},
	{
		name: "deployment: the quota wants requests to be said",
		plant: func(w *world) {
			w.admit()
			w.make(node("n1", "4"))
			w.limit("mem", corev1.ResourceList{"requests.memory": apires.MustParse("150Mi")})
			w.make(deploy(1))
			w.count()
		},
		res: resource.Deployments, of: "web", state: plan.Stuck,
		kind: "ResourceQuota", object: "mem", code: "FailedCreate", says: "must specify requests.memory",
		remedy: "create a LimitRange that gives defaults",
		cure: func(w *world) {
			w.make(&corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "defaults"}, Spec: corev1.LimitRangeSpec{
				Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, DefaultRequest: corev1.ResourceList{"memory": apires.MustParse("60Mi")}}}}})
			w.count()
		},
	},
	{
		name: "deployment: outside of the limit range",
		plant: func(w *world) {
			w.admit()
			w.make(node("n1", "4"), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "small"}, Spec: corev1.LimitRangeSpec{
				Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Min: corev1.ResourceList{"memory": apires.MustParse("100Mi")}}}}})
			w.make(deploy(1, memory("60Mi")))
		},
		res: resource.Deployments, of: "web", state: plan.Stuck,
		kind: "LimitRange", object: "small", code: "FailedCreate", says: "minimum memory usage per Container is 100Mi",
		remedy: "change the requests and limits in the pod template",
		cure: func(w *world) {
			edit(w, resource.Deployments, "web", func(o object.Object) {
				containerOf(o).Resources.Requests["memory"] = apires.MustParse("100Mi")
			})
			w.settle()
			w.pods("web", ready)
			w.settle()
		},
	},
	{
		name: "deployment: its service account does not exist",
		plant: func(w *world) {
			w.admit()
			w.make(node("n1", "4"), deploy(1, func(s *corev1.PodSpec) { s.ServiceAccountName = "robot" }))
		},
		res: resource.Deployments, of: "web", state: plan.Stuck,
		kind: "ServiceAccount", object: "robot", code: "NotFound", remedy: "kubectl create serviceaccount robot -n default",
		cure: func(w *world) { w.make(account("robot")); w.settle() },
	},
	{
		name: "stateful: its priority class does not exist",
		plant: func(w *world) {
			w.admit()
			w.make(node("n1", "4"), stateful(1, "", func(s *corev1.PodSpec) { s.PriorityClassName = "gold" }))
		},
		res: resource.StatefulSets, of: "db", state: plan.Stuck,
		kind: "PriorityClass", object: "gold", code: "NotFound", remedy: "create the PriorityClass",
		cure: func(w *world) {
			w.make(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, Value: 5})
			w.settle()
		},
	},
	{
		name: "deployment: the namespace is being deleted",
		plant: func(w *world) {
			w.make(node("n1", "4"), deploy(1))
			w.pods("web", ready)
			ns := looptest.Find[*corev1.Namespace](w.Cluster, resource.Namespaces, "", "default")
			looptest.Edit(w.Cluster, resource.Pods, "default", w.find(resource.Pods, "web")[0], func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
			looptest.Remove(w.Cluster, ns, "")
			w.endAll()
			w.beat(20 * time.Second)
		},
		res: resource.Namespaces, of: "default", state: plan.Waiting,
		kind: "Pod", object: "web-", code: "FinalizersRemaining", says: "example.com/hold", remedy: "the controllers that set the finalizers",
		cure: func(w *world) {
			w.pods("web", func(p *corev1.Pod) { p.Finalizers = nil })
		},
	},
}
