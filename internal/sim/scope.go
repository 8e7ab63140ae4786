package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/simnode"
	"coracle/internal/virtual"
	"coracle/internal/workload/invariant"
)

// scope is a small world that is explored whole: at most three nodes and three pods, one workload at rest, a few edits
// that a user makes in their order but at any moment, and a few accidents of any sort at any moment.
type scope struct {
	name      string
	nodes     int
	workload  func(w *world) object.Object
	edits     []smallEdit
	accidents int

	// objects are what the world begins with, at an instant, controllers the product's; made once.
	objects     []object.Object
	start       time.Time
	controllers []plan.Controller
}

type smallEdit struct {
	name string
	do   func(w *world)
}

// small is how far a small world has come.
type small struct {
	scope     *scope
	edits     int
	accidents int
}

// digest stands for what is still to come from outside.
func (s *small) digest() uint64 { return uint64(s.edits)*1_000_003 + uint64(s.accidents)*7_919 }

// prepare makes what the worlds of a scope begin with: all controllers bring the workload to rest.
func (s *scope) prepare() {
	w := &world{has: map[feature]bool{}, rand: rand.New(rand.NewPCG(0, 1)), ctx: context.Background()}
	w.begin(virtual.Controllers(nil), virtual.Config{Start: epoch, Behavior: instant, Beats: true, Steady: true})
	w.as(virtual.User, func() {
		w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-node-lease"}})
		for i := range s.nodes {
			w.addNode(fmt.Sprintf("n%d", i))
		}
		w.make(s.workload(w))
	})
	for until := w.Now().Add(2 * time.Minute); w.Now().Before(until); {
		if next, ok := w.Next(); !w.work() && ok {
			w.pass(next.Sub(w.Now()))
		}
	}
	for _, res := range resource.All() {
		if res != resource.Events {
			s.objects = append(s.objects, w.Truth().List(res, "")...)
		}
	}
	s.start = w.Now()
	s.controllers = slices.DeleteFunc(virtual.Controllers(s.objects), func(c plan.Controller) bool { return c.For.Group != "apps" })
}

// instant implements virtual.Config.Behavior: nothing takes time, so that all that can happen can happen now.
func instant(*corev1.Pod, *corev1.Node) simnode.Behavior { return simnode.Behavior{} }

// world is the small world at its beginning, with the controllers of workloads alone.
func (s *scope) world(m *mutation) *world {
	if s.objects == nil {
		s.prepare()
	}
	w := &world{has: map[feature]bool{}, mutation: m, ctx: context.Background(), small: &small{scope: s}}
	w.begin(m.controllers(slices.Clone(s.controllers)), virtual.Config{Start: s.start, Objects: s.objects, Behavior: instant, Steady: true})
	for i := range s.nodes {
		machine := w.Join(fmt.Sprintf("n%d", i))
		for _, p := range machine.Pods() {
			w.checks.ran(machine.Name, p.Object, simnode.Runs(&p.Object.Status))
		}
	}
	return w
}

// restful says what is not yet as it shall be.
func (s *scope) restful(w *world) error {
	for _, m := range w.Machines() {
		if err := w.settled(m); err != nil {
			return err
		}
	}
	if err := exact(w.Truth(), w.Now()); err != nil {
		return err
	}
	for _, c := range w.controllers {
		if err := invariant.AtRest(c)(w.Truth(), w.Now()); err != nil {
			return err
		}
	}
	return nil
}

// accidents are those that could happen now, while some are left.
func (w *world) accidents(out []choice) []choice {
	s := w.small
	if s.accidents >= s.scope.accidents {
		return out
	}
	hit := func(e event, do func()) {
		e.Does = "fault"
		out = append(out, choice{e, func() { s.accidents++; do() }})
	}
	hit(event{Who: "restart"}, w.restart)
	if w.fail == nil && len(w.Passes()) > 0 {
		hit(event{Who: "error"}, func() { w.fail = fmt.Errorf("an accident") })
	}
	for _, watch := range w.Control().Watches {
		if watch.Lag() > 1 {
			hit(event{Who: "miss", Kind: watch.Resource.Plural}, watch.Relist)
		}
	}
	return out
}

// scopes are the small worlds, one or more for each kind of workload.
func scopes() []*scope {
	image := smallEdit{"image", func(w *world) {
		for _, name := range w.names() {
			w.editTemplate(name, func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Image = "good:1" })
		}
	}}
	scale := func(n int32) smallEdit {
		return smallEdit{fmt.Sprintf("scale %d", n), func(w *world) {
			edit(w, resource.ReplicaSets, "rs", func(r *appsv1.ReplicaSet) { r.Spec.Replicas = &n })
			edit(w, resource.Deployments, "dep", func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
			edit(w, resource.StatefulSets, "sts", func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
		}}
	}
	kill := smallEdit{"delete a pod", func(w *world) {
		for _, o := range w.Truth().List(resource.Pods, ns) {
			if o.GetDeletionTimestamp() == nil {
				w.delete(resource.Pods, o.GetName(), metav1.DeleteOptions{})
				return
			}
		}
	}}
	disown := smallEdit{"disown a pod", func(w *world) {
		for _, o := range w.Truth().List(resource.Pods, ns) {
			edit(w, resource.Pods, o.GetName(), func(p *corev1.Pod) { p.OwnerReferences = nil })
			return
		}
	}}
	return []*scope{
		{name: "ReplicaSet", nodes: 2, workload: smallReplicaSet(2), edits: []smallEdit{scale(3), scale(1)}},
		{name: "ReplicaSet, pods lost", nodes: 2, workload: smallReplicaSet(3), edits: []smallEdit{kill, disown}, accidents: 1},
		{name: "Deployment", nodes: 2, workload: smallDeployment(2), edits: []smallEdit{image}},
		{name: "Deployment, scaled", nodes: 3, workload: smallDeployment(2), edits: []smallEdit{image, scale(1)}, accidents: 1},
		{name: "StatefulSet", nodes: 2, workload: smallStatefulSet(2), edits: []smallEdit{image}},
		{name: "StatefulSet, scaled", nodes: 2, workload: smallStatefulSet(2), edits: []smallEdit{scale(3), kill, scale(1)}, accidents: 1},
		{name: "DaemonSet", nodes: 2, workload: smallDaemonSet, edits: []smallEdit{image}},
		{name: "DaemonSet, pods lost", nodes: 3, workload: smallDaemonSet, edits: []smallEdit{image, kill}, accidents: 1},
	}
}

func chance() *rand.Rand { return rand.New(rand.NewPCG(0, 0)) }

func smallReplicaSet(n int32) func(*world) object.Object {
	return func(*world) object.Object {
		return &appsv1.ReplicaSet{ObjectMeta: meta("rs"), Spec: appsv1.ReplicaSetSpec{Replicas: &n, Selector: selector("rs"), Template: template(chance(), "rs")}}
	}
}

func smallDeployment(n int32) func(*world) object.Object {
	return func(w *world) object.Object {
		d := w.deployment(chance())
		d.Spec.Replicas, d.Spec.MinReadySeconds, d.Spec.RevisionHistoryLimit = &n, 0, new(int32(1))
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxSurge: new(intstr.FromInt32(1)), MaxUnavailable: new(intstr.FromInt32(0))}}
		return d
	}
}

func smallStatefulSet(n int32) func(*world) object.Object {
	return func(w *world) object.Object {
		s := w.statefulSet(chance())
		s.Spec.Replicas, s.Spec.MinReadySeconds, s.Spec.PodManagementPolicy = &n, 0, appsv1.OrderedReadyPodManagement
		s.Spec.VolumeClaimTemplates = nil
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(0)), MaxUnavailable: new(intstr.FromInt32(1))}
		return s
	}
}

func smallDaemonSet(w *world) object.Object {
	d := w.daemonSet(chance())
	d.Spec.MinReadySeconds, d.Spec.Template.Spec.NodeSelector = 0, nil
	d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: new(intstr.FromInt32(1)), MaxSurge: new(intstr.FromInt32(0))}
	return d
}
