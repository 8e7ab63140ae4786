package why_test

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

func claimOf(class string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": apires.MustParse("1Gi")}},
	}}
}

func service(label string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": label}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}}
}

// volumeFaults are about volumes, services and nodes.
var volumeFaults = []fault{
	{
		name:  "stateful: the storage class does not exist",
		plant: func(w *world) { w.make(node("n1", "4"), stateful(1, "fast")) },
		res:   resource.StatefulSets, of: "db", state: plan.Stuck,
		kind: "StorageClass", object: "fast", code: "NotFound", remedy: "create the StorageClass",
		cure: func(w *world) { w.make(class("fast", "coracle.io/node-local")); w.settle() },
	},
	{
		name:  "stateful: the provisioner is another's",
		plant: func(w *world) { w.make(node("n1", "4"), class("ebs", "ebs.csi.aws.com"), stateful(1, "ebs")) },
		res:   resource.StatefulSets, of: "db", state: plan.Waiting,
		kind: "PersistentVolumeClaim", object: "data-db-0", code: "ExternalProvisioning", says: "ebs.csi.aws.com", remedy: "check that the provisioner",
	},
	{
		name: "claim: its class makes no volumes, and there is none",
		plant: func(w *world) {
			w.make(node("n1", "4"), class("manual", "kubernetes.io/no-provisioner"), claimOf("manual"))
		},
		res: resource.PersistentVolumeClaims, of: "data", state: plan.Stuck,
		kind: "PersistentVolumeClaim", object: "data", code: "FailedBinding", remedy: "create a PersistentVolume",
		cure: func(w *world) { w.make(volumeOn("n1")); w.settle() },
	},
	{
		name: "pod: its claim is not there",
		plant: func(w *world) {
			w.make(node("n1", "4"), class("manual", "kubernetes.io/no-provisioner"), solo(claiming("data")))
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "PersistentVolumeClaim", object: "data", code: "NotFound", remedy: "create the claim",
		cure: func(w *world) { w.make(volumeOn("n1"), claimOf("manual")); w.settle() },
	},
	{
		name: "claim: it is deleted and still in use",
		plant: func(w *world) {
			w.make(node("n1", "4"), class("manual", "kubernetes.io/no-provisioner"), volumeOn("n1"), claimOf("manual"), solo(claiming("data")))
			w.pods("solo", onNode(ready))
			w.delete(resource.PersistentVolumeClaims, "data")
		},
		res: resource.PersistentVolumeClaims, of: "data", state: plan.Waiting,
		kind: "PersistentVolumeClaim", object: "data", code: "InUse", says: "solo", remedy: "delete the pod",
		cure: func(w *world) { w.remove("solo"); w.endAll(); w.settle() },
	},
	{
		name:  "service: no pod has its labels",
		plant: func(w *world) { w.make(node("n1", "4"), solo(), service("y")); w.pods("solo", ready) },
		res:   resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoPods", says: "app=y", remedy: "correct the service's selector",
		cure: func(w *world) {
			edit(w, resource.Services, "web", func(o object.Object) { o.(*corev1.Service).Spec.Selector["app"] = "x" })
		},
	},
	{
		name:  "service: the pod behind it crashes",
		plant: func(w *world) { w.make(node("n1", "4"), solo(), service("x")); w.pods("solo", crashing(1, "Error")) },
		res:   resource.Services, of: "web", state: plan.Stuck,
		kind: "Pod", object: "solo", code: "CrashLoopBackOff", remedy: "kubectl logs solo",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name:  "node: cordoned",
		plant: func(w *world) { w.make(node("n1", "4", cordoned)) },
		res:   resource.Nodes, of: "n1", state: plan.Waiting,
		kind: "Node", object: "n1", code: "Cordoned", remedy: "kubectl uncordon n1",
		cure: func(w *world) { editNode(w, "n1", func(n *corev1.Node) { n.Spec.Unschedulable = false }) },
	},
	{
		name: "deployment: its node is not ready",
		plant: func(w *world) {
			w.make(node("n1", "4"), deploy(1))
			w.pods("web", ready)
			looptest.Edit(w.Cluster, resource.Nodes, "", "n1", notReady)
			w.pods("web", unready)
		},
		res: resource.Deployments, of: "web", state: plan.Waiting,
		kind: "Node", object: "n1", code: "KubeletNotReady", says: "container runtime is down", remedy: "",
		cure: func(w *world) {
			looptest.Edit(w.Cluster, resource.Nodes, "", "n1", func(n *corev1.Node) { n.Status = node("n1", "4").Status })
			w.pods("web", ready)
		},
	},
	{
		name: "deployment: the deadline has passed, for a probe",
		plant: func(w *world) {
			w.make(node("n1", "4"), deploy(1, probed))
			w.pods("web", unready)
			w.beat(11 * time.Minute)
		},
		res: resource.Deployments, of: "web", state: plan.Stuck,
		kind: "Pod", object: "web-", code: "ContainersNotReady", remedy: "probe of app does not pass",
		cure: func(w *world) { w.pods("web", ready) },
	},
}
