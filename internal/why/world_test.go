package why_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/client/fake"
	"coracle/internal/cluster"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scheduler"
	"coracle/internal/why"
	"coracle/internal/workload"
)

// world is a cluster in memory with every production planner and the scheduler at work; nodes do
// what the test says.
type world struct {
	*looptest.Cluster
	t *testing.T
	// events counts those that the test made.
	events int
}

func inWorld(t *testing.T, test func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.New()
		all := cluster.Controllers(cluster.Config{SharedVolumes: "/shared"})
		all = append(all, workload.Controllers()...)
		w := &world{looptest.Run(t, c, all...), t, 0}
		s := scheduler.New(c, w.View, func(plan.Event) {})
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(t.Context()) }()
		t.Cleanup(func() { <-ended })
		synctest.Wait()
		looptest.Make(w.Cluster, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
		test(w)
	})
}

// make creates objects and lets the controllers come to rest.
func (w *world) make(objects ...object.Object) {
	w.t.Helper()
	for _, o := range objects {
		looptest.Make(w.Cluster, o)
		synctest.Wait()
	}
	synctest.Wait()
}

// pods changes every pod whose name begins so, as a node would.
func (w *world) pods(prefix string, change func(*corev1.Pod)) {
	w.t.Helper()
	synctest.Wait()
	for _, name := range looptest.Names(w.Cluster, resource.Pods, "default") {
		if strings.HasPrefix(name, prefix) {
			looptest.Edit(w.Cluster, resource.Pods, "default", name, change)
			synctest.Wait()
		}
	}
}

// why explains an object; the text is what a user reads.
func (w *world) why(res resource.Resource, name string) (*why.Report, string) {
	w.t.Helper()
	synctest.Wait()
	key := object.Key{Name: name}
	if res.Namespaced {
		key.Namespace = "default"
	}
	report, found := why.Explain(w.View, w.said, res, key, time.Now())
	if !found {
		w.t.Fatalf("%s %s: not found", res, key)
	}
	var b strings.Builder
	if err := report.Text(&b); err != nil {
		w.t.Fatal(err)
	}
	return report, b.String()
}

func (w *world) said(res resource.Resource, key object.Key) []why.Word {
	var words []why.Word
	for _, x := range w.Loop.Why(res, key) {
		words = append(words, why.Word{Controller: x.Controller, Why: x.Why, Failure: x.Failure})
	}
	return words
}

func node(name, cpu string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name},
		Annotations: map[string]string{"coracle.io/volume-root": "/volumes"}}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": apires.MustParse(cpu), "memory": apires.MustParse("8Gi"), "pods": apires.MustParse("110")}
	n.Status.Capacity = n.Status.Allocatable
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	for _, f := range change {
		f(n)
	}
	return n
}

func template(change ...func(*corev1.PodSpec)) corev1.PodTemplateSpec {
	seconds := int64(30)
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}}}
	t.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &seconds, SchedulerName: "default-scheduler",
		Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}
	for _, f := range change {
		f(&t.Spec)
	}
	return t
}

var selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}

func deploy(replicas int32, change ...func(*corev1.PodSpec)) *appsv1.Deployment {
	quarter, deadline, history := intstr.FromString("25%"), int32(600), int32(10)
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: selector, Template: template(change...), ProgressDeadlineSeconds: &deadline, RevisionHistoryLimit: &history,
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &quarter, MaxUnavailable: &quarter}},
	}}
}

func stateful(replicas int32, class string, change ...func(*corev1.PodSpec)) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, Selector: selector, Template: template(change...), ServiceName: "db", PodManagementPolicy: appsv1.OrderedReadyPodManagement,
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType},
	}}
	if class != "" {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": apires.MustParse("1Gi")}},
		}}}
	}
	return s
}

func daemon(change ...func(*corev1.PodSpec)) *appsv1.DaemonSet {
	one, none := intstr.FromInt32(1), intstr.FromInt32(0)
	return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent"}, Spec: appsv1.DaemonSetSpec{
		Selector: selector, Template: template(change...),
		UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &one, MaxSurge: &none}},
	}}
}

func class(name, provisioner string) *storagev1.StorageClass {
	mode := storagev1.VolumeBindingImmediate
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func asks(cpu string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": apires.MustParse(cpu)}
	}
}

func probed(s *corev1.PodSpec) { s.Containers[0].ReadinessProbe = &corev1.Probe{} }

func setCondition(p *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) {
	var kept []corev1.PodCondition
	for _, c := range p.Status.Conditions {
		if c.Type != kind {
			kept = append(kept, c)
		}
	}
	p.Status.Conditions = append(kept, corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Now()})
}

// ready is a pod whose containers run and answer.
func ready(p *corev1.Pod) {
	p.Status.Phase = corev1.PodRunning
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}
	setCondition(p, corev1.ContainersReady, corev1.ConditionTrue, "", "")
	setCondition(p, corev1.PodReady, corev1.ConditionTrue, "", "")
}

// unready is a pod whose container runs and does not answer.
func unready(p *corev1.Pod) {
	ready(p)
	p.Status.ContainerStatuses[0].Ready = false
	for _, kind := range []corev1.PodConditionType{corev1.ContainersReady, corev1.PodReady} {
		setCondition(p, kind, corev1.ConditionFalse, "ContainersNotReady", "containers with unready status: [app]")
	}
}

// waiting is a pod whose container cannot start.
func waiting(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		unready(p)
		p.Status.Phase = corev1.PodPending
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
}

// containerOf is the first container of a workload's template.
func containerOf(o object.Object) *corev1.Container {
	switch o := o.(type) {
	case *appsv1.StatefulSet:
		return &o.Spec.Template.Spec.Containers[0]
	case *appsv1.DaemonSet:
		return &o.Spec.Template.Spec.Containers[0]
	case *appsv1.Deployment:
		return &o.Spec.Template.Spec.Containers[0]
	}
	return nil
}
