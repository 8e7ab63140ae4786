package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/cluster/volume"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/virtual"
)

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// setUp makes what the world begins with.
func (w *world) setUp(r *rand.Rand) {
	more := rand.New(rand.NewPCG(w.seed, 3))
	for _, name := range []string{ns, nodelife.LeaseNamespace} {
		w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	w.make(&storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: volume.Local,
		AllowVolumeExpansion: new(true),
		VolumeBindingMode:    new(storagev1.VolumeBindingWaitForFirstConsumer), ReclaimPolicy: new(corev1.PersistentVolumeReclaimDelete),
	})
	if w.has[scarce] {
		w.classes()
	}
	for i := range 2 + r.IntN(4) {
		w.addNode(fmt.Sprintf("n%d", i))
	}
	which := r.IntN(8)
	if which < 4 || which == 7 {
		w.make(w.applyFeatures(more, w.deployment(r)))
	}
	if which == 4 || which == 5 || which == 7 {
		w.make(w.applyFeatures(more, w.statefulSet(r)))
	}
	if which == 6 || which == 7 || which == 0 {
		w.make(w.applyFeatures(more, w.daemonSet(r)))
	}
	w.setUpFeatures(more)
}

func (w *world) make(o object.Object) {
	if _, err := w.api.Create(w.ctx, o); err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
		w.violate(fmt.Errorf("harness: %w", err))
	}
}

func (w *world) addNode(name string) {
	if w.Machine(name) != nil {
		return
	}
	now := metav1.NewTime(w.Now())
	room := w.room()
	w.make(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "half": string('a' + name[1]%2)},
			Annotations: map[string]string{volume.RootAnnotation: "/volumes"}},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now},
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, LastHeartbeatTime: now, LastTransitionTime: now},
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, LastHeartbeatTime: now, LastTransitionTime: now},
			{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, LastHeartbeatTime: now, LastTransitionTime: now}}},
	})
	m := w.Join(name)
	m.Crash() // what is left of a machine that had the name before does not run on this one
	m.Return()
}

// removeNode takes a machine away for good: its power first, then its object.
func (w *world) removeNode(m *virtual.Machine) {
	w.Leave(m)
	w.delete(resource.Nodes, m.Name, metav1.DeleteOptions{})
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func template(r *rand.Rand, app string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName, RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
			TerminationGracePeriodSeconds: new(int64(30)),
			Containers:                    []corev1.Container{{Name: "c", Image: "good:0"}},
		},
	}
	if seconds := pick(r, 0, 60, 300, 300); app != "ds" {
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			t.Spec.Tolerations = append(t.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(seconds))})
		}
	}
	return t
}

func amount(r *rand.Rand) *intstr.IntOrString {
	return new(pick(r, intstr.FromInt32(0), intstr.FromInt32(1), intstr.FromInt32(2), intstr.FromString("25%"), intstr.FromString("50%")))
}

func rolling(r *rand.Rand) appsv1.DeploymentStrategy {
	s := appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: amount(r), MaxUnavailable: amount(r)}}
	if s.RollingUpdate.MaxSurge.String() == "0" && s.RollingUpdate.MaxUnavailable.String() == "0" {
		s.RollingUpdate.MaxSurge = new(intstr.FromInt32(1))
	}
	return s
}

func (w *world) deployment(r *rand.Rand) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: meta("dep"), Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(r.IntN(8))), Selector: selector("dep"), Template: template(r, "dep"), Strategy: rolling(r),
		MinReadySeconds: pick(r, int32(0), 0, 5), RevisionHistoryLimit: new(pick(r, int32(0), 2, 10)), ProgressDeadlineSeconds: new(int32(600)),
	}}
	if r.IntN(5) == 0 {
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	}
	return d
}

func (w *world) statefulSet(r *rand.Rand) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: meta("sts"), Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(r.IntN(6))), Selector: selector("sts"), Template: template(r, "sts"), ServiceName: "sts",
		PodManagementPolicy: pick(r, appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement),
		MinReadySeconds:     pick(r, int32(0), 0, 5), RevisionHistoryLimit: new(pick(r, int32(0), 2, 10)),
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(r.IntN(3))), MaxUnavailable: new(intstr.FromInt32(1 + r.Int32N(2)))}},
	}}
	keep := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
	s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: pick(r, keep...), WhenScaled: pick(r, keep...)}
	if r.IntN(2) == 0 {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: new("local"), VolumeMode: new(corev1.PersistentVolumeFilesystem),
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": apires.MustParse("1Gi")}},
		}}}
	}
	return s
}

func daemonStrategy(r *rand.Rand) appsv1.DaemonSetUpdateStrategy {
	ru := &appsv1.RollingUpdateDaemonSet{MaxUnavailable: new(intstr.FromInt32(1 + r.Int32N(2))), MaxSurge: new(intstr.FromInt32(0))}
	if r.IntN(2) == 0 {
		ru.MaxSurge, ru.MaxUnavailable = ru.MaxUnavailable, ru.MaxSurge
	}
	return appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: ru}
}

func (w *world) daemonSet(r *rand.Rand) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: meta("ds"), Spec: appsv1.DaemonSetSpec{
		Selector: selector("ds"), Template: template(r, "ds"), UpdateStrategy: daemonStrategy(r),
		MinReadySeconds: pick(r, int32(0), 0, 5), RevisionHistoryLimit: new(pick(r, int32(0), 2, 10)),
	}}
	if r.IntN(3) == 0 {
		d.Spec.Template.Spec.NodeSelector = map[string]string{"half": "a"}
	}
	return d
}

// edit changes an object as kubectl edit does; it is not there or not willing: nothing happens.
func edit[T object.Object](w *world, res resource.Resource, name string, change func(T)) {
	space := ""
	if res.Namespaced {
		space = ns
	}
	o, err := w.api.Get(w.ctx, res, space, name)
	if err != nil {
		return
	}
	next := o.DeepCopyObject().(T)
	change(next)
	_, _ = w.api.Update(w.ctx, next, "")
}

func (w *world) delete(res resource.Resource, name string, opts metav1.DeleteOptions) {
	space := ""
	if res.Namespaced {
		space = ns
	}
	_, _ = w.api.Delete(w.ctx, object.Ref{Resource: res, Key: object.Key{Namespace: space, Name: name}}, opts)
}

var workloads = map[string]resource.Resource{"dep": resource.Deployments, "sts": resource.StatefulSets, "ds": resource.DaemonSets}

func (w *world) editTemplate(name string, change func(*corev1.PodTemplateSpec)) {
	switch strings.TrimSuffix(name, "2") {
	case "dep":
		edit(w, resource.Deployments, name, func(d *appsv1.Deployment) { change(&d.Spec.Template) })
	case "sts":
		edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) { change(&s.Spec.Template) })
	case "ds":
		edit(w, resource.DaemonSets, name, func(d *appsv1.DaemonSet) { change(&d.Spec.Template) })
	}
}

// somePod names a pod that exists, or none.
func (w *world) somePod() object.Key {
	pods := w.Truth().List(resource.Pods, ns)
	if len(pods) == 0 {
		return object.Key{}
	}
	return object.KeyOf(pods[w.rand.IntN(len(pods))])
}

// commonWishes are what users of every world do.
var commonOps = []string{"scale", "scale", "image", "image", "image", "bad", "strategy", "pause", "partition", "delete-pod", "delete-pod",
	"evict", "relabel", "disown", "cordon", "taint", "add-node", "remove-node", "orphan", "background", "foreground", "remake", "remake"}

// userOps draws one operation of a user.
func (w *world) userOps(out []choice) []choice {
	e := event{Does: "user", Who: pick(w.rand, w.opList(commonOps)...)}
	e.Key.Name = pick(w.rand, w.names()...)
	e.N = w.rand.IntN(8)
	if len(w.has) > 0 && e.Who != "scale" {
		e.N += 8 * w.rand.IntN(64)
	}
	switch e.Who {
	case "delete-pod", "evict", "relabel", "disown":
		e.Key = w.somePod()
	case "cordon", "taint", "add-node", "remove-node", "drain":
		e.Key.Name = fmt.Sprintf("n%d", w.rand.IntN(8))
	}
	return w.draw(e, out)
}

// commonFaults are the accidents of every world.
var commonFaults = []string{"relist", "relist", "repeat", "repeat", "restart", "conflict", "conflict", "error", "error", "crash", "cut",
	"revive", "revive", "revive", "pod-fails", "pod-unready"}

// faultList is what may befall this world.
func (w *world) faultList() []string {
	if !w.has[past] && !w.has[gaps] {
		return commonFaults
	}
	out := append([]string(nil), commonFaults...)
	for _, f := range accidental {
		if w.has[f] {
			out = append(out, moreFaults[f]...)
		}
	}
	return out
}

// faults draws one accident.
func (w *world) faults(out []choice) []choice {
	e := event{Does: "fault", Who: pick(w.rand, w.faultList()...)}
	switch e.Who {
	case "past":
		e.N = 1 + w.rand.IntN(40)
	case "relist", "repeat", "miss":
		f := pick(w.rand, w.Followers()...)
		e.Key.Name, e.Kind = f.Name, pick(w.rand, f.Watches...).Resource.Plural
	case "crash", "cut", "revive":
		e.Key.Name = fmt.Sprintf("n%d", w.rand.IntN(8))
	case "pod-fails", "pod-unready":
		e.Key = w.somePod()
	}
	return w.draw(e, out)
}

func (w *world) draw(e event, out []choice) []choice {
	if c, ok := w.userOp(e); ok {
		out = append(out, c)
	}
	return out
}

// userOp is a user's or an accident's event with what it does; false when it cannot be.
func (w *world) userOp(e event) (choice, bool) {
	do := w.faultDoes(e)
	if e.Does == "user" {
		do = w.userDoes(e)
	}
	if do == nil {
		return choice{}, false
	}
	return choice{e, func() { w.as(virtual.User, do) }}, true
}

func (w *world) userDoes(e event) func() {
	name, r := e.Key.Name, rand.New(rand.NewPCG(uint64(e.N), 7))
	res, isWorkload := kindOf(name)
	switch e.Who {
	case "scale":
		return func() {
			edit(w, resource.Deployments, name, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(e.N)) })
			edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) { s.Spec.Replicas = new(int32(min(e.N, 5))) })
		}
	case "image":
		return func() {
			w.editTemplate(name, func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Image = fmt.Sprintf("good:%d", e.N%4) })
		}
	case "bad":
		return func() { w.editTemplate(name, func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Image = "bad:0" }) }
	case "strategy":
		return func() {
			edit(w, resource.Deployments, name, func(d *appsv1.Deployment) {
				if d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
					d.Spec.Strategy = rolling(r)
				}
			})
			edit(w, resource.DaemonSets, name, func(d *appsv1.DaemonSet) {
				if d.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
					d.Spec.UpdateStrategy = daemonStrategy(r)
				}
			})
		}
	case "pause":
		return func() {
			edit(w, resource.Deployments, name, func(d *appsv1.Deployment) { d.Spec.Paused = e.N%2 == 0 })
		}
	case "partition":
		return func() {
			edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) {
				if ru := s.Spec.UpdateStrategy.RollingUpdate; ru != nil {
					ru.Partition = new(int32(e.N % 4))
				}
			})
		}
	case "delete-pod":
		return func() { w.delete(resource.Pods, name, metav1.DeleteOptions{}) }
	case "evict":
		return func() {
			_, _ = w.api.CreateSub(w.ctx, object.Ref{Resource: resource.Pods, Key: e.Key}, "eviction",
				&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}})
		}
	case "relabel":
		return func() {
			edit(w, resource.Pods, name, func(p *corev1.Pod) {
				if app, gone := strings.CutPrefix(p.Labels["app"], "gone-"); gone {
					if w.recreates(app) {
						return // it may come back to a Deployment that has pods of another template by now
					}
					p.Labels["app"] = app
				} else {
					p.Labels["app"] = "gone-" + p.Labels["app"]
				}
			})
		}
	case "disown":
		return func() { edit(w, resource.Pods, name, func(p *corev1.Pod) { p.OwnerReferences = nil }) }
	case "orphan", "background", "foreground":
		policy := map[string]metav1.DeletionPropagation{"orphan": metav1.DeletePropagationOrphan,
			"background": metav1.DeletePropagationBackground, "foreground": metav1.DeletePropagationForeground}[e.Who]
		if !isWorkload || e.N%8 > 2 {
			return nil
		}
		return func() { w.delete(res, name, metav1.DeleteOptions{PropagationPolicy: &policy}) }
	case "remake":
		o, deleted := w.checks.deleted[object.Ref{Resource: res, Key: object.Key{Namespace: ns, Name: name}}]
		if !isWorkload || !deleted {
			return nil
		}
		return func() { w.make(bare(o)) }
	}
	if do := w.featureOp(e, r); do != nil {
		return do
	}
	return w.userNode(e)
}

// recreates says whether a Deployment has pods of one template only at any time.
func (w *world) recreates(name string) bool {
	o, ok := w.Truth().Get(resource.Deployments, ns, name)
	return ok && o.(*appsv1.Deployment).Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
}

// bare is an object as its manifest had it.
func bare(o object.Object) object.Object {
	o = o.DeepCopyObject().(object.Object)
	fresh := meta(o.GetName())
	fresh.Annotations = map[string]string{}
	for k, v := range o.GetAnnotations() {
		if !strings.HasPrefix(k, "deployment.kubernetes.io/") && !strings.HasPrefix(k, "coracle.io/rolled") {
			fresh.Annotations[k] = v
		}
	}
	switch o := o.(type) {
	case *appsv1.Deployment:
		return &appsv1.Deployment{ObjectMeta: fresh, Spec: o.Spec}
	case *appsv1.StatefulSet:
		return &appsv1.StatefulSet{ObjectMeta: fresh, Spec: o.Spec}
	case *appsv1.DaemonSet:
		return &appsv1.DaemonSet{ObjectMeta: fresh, Spec: o.Spec}
	}
	return o
}

func (w *world) userNode(e event) func() {
	name := e.Key.Name
	m := w.Machine(name)
	switch {
	case e.Who == "add-node" && m == nil:
		return func() { w.addNode(name) }
	case m == nil:
		return nil
	case e.Who == "cordon":
		return func() {
			edit(w, resource.Nodes, name, func(n *corev1.Node) { n.Spec.Unschedulable = !n.Spec.Unschedulable })
		}
	case e.Who == "taint":
		effect := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute}[e.N%2]
		return func() {
			edit(w, resource.Nodes, name, func(n *corev1.Node) {
				was := len(n.Spec.Taints)
				n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "user" })
				if len(n.Spec.Taints) == was {
					n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "user", Effect: effect})
				}
			})
		}
	case e.Who == "remove-node" && len(w.Machines()) > 2:
		return func() { w.removeNode(m) }
	}
	return nil
}

func (w *world) faultDoes(e event) func() {
	m := w.Machine(e.Key.Name)
	switch e.Who {
	case "relist", "repeat", "miss":
		return w.watchFault(e)
	case "restart":
		return w.restart
	case "past":
		return func() { w.restartAt(w.Revision() - min(uint64(e.N), w.Revision()-w.begun)) }
	case "midway":
		if slices.ContainsFunc(w.Passes(), (*virtual.Pass).Midway) {
			return w.restart
		}
	case "conflict":
		return func() { w.fail = apierrors.NewConflict(resource.Pods.GroupResource(), "", nil) }
	case "error":
		return func() { w.fail = apierrors.NewInternalError(fmt.Errorf("an accident")) }
	case "crash", "cut", "revive":
		switch {
		case m == nil || m.Alive() == (e.Who == "revive"):
		case e.Who == "crash":
			return m.Crash
		case e.Who == "cut":
			return m.Cut
		default:
			return m.Return
		}
	case "pod-fails", "pod-unready":
		return w.podFault(e)
	}
	return nil
}

func (w *world) watchFault(e event) func() {
	for _, f := range w.Followers() {
		for _, watch := range f.Watches {
			switch {
			case f.Name != e.Key.Name || watch.Resource.Plural != e.Kind:
			case e.Who == "relist":
				return watch.Relist
			case e.Who == "miss" && watch.Lag() < 3:
				return nil
			case e.Who == "miss":
				return func() { watch.Miss(watch.Lag() - 1) }
			default:
				return watch.Repeat
			}
		}
	}
	return nil
}

func (w *world) podFault(e event) func() {
	for _, m := range w.Machines() {
		for _, p := range m.Pods() {
			if object.KeyOf(p.Object) != e.Key || !m.Alive() || !p.Up() || !podstate.Ready(p.Object) {
				continue
			}
			if e.Who == "pod-unready" {
				return func() { p.Unready(w.Now().Add(w.delay(p.Object, "recover", 20))) }
			}
			return func() { p.Evict("The node was low on resource: memory.") }
		}
	}
	return nil
}
