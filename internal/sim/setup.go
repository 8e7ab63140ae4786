package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/workload/daemonset"
	"coracle/internal/workload/progress"
	"coracle/internal/workload/rollout"
	"coracle/internal/workload/statefulset"
)

const autoRollback = "coracle.io/auto-rollback"

// names are what workloads may be called; the letters tell the kind.
func (w *world) names() []string {
	if w.has[twins] {
		return []string{"dep", "sts", "ds", "dep2", "sts2", "ds2"}
	}
	return []string{"dep", "sts", "ds"}
}

// kindOf is the kind of a workload's name.
func kindOf(name string) (resource.Resource, bool) {
	res, ok := workloads[strings.TrimSuffix(name, "2")]
	return res, ok
}

// applyFeatures gives a workload the settings of the world's features.
func (w *world) applyFeatures(r *rand.Rand, o object.Object) object.Object {
	notes := map[string]string{}
	o.SetAnnotations(notes)
	w.note(r, o, notes)
	var t *corev1.PodTemplateSpec
	switch o := o.(type) {
	case *appsv1.Deployment:
		t = &o.Spec.Template
		if w.has[rollbacks] || w.has[deadlines] {
			o.Spec.ProgressDeadlineSeconds = new(pick(r, int32(30), 60))
		}
	case *appsv1.StatefulSet:
		t = &o.Spec.Template
		if w.has[reserved] && r.IntN(2) == 0 {
			o.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: int32(r.IntN(3))}
		}
		if w.has[onDelete] && r.IntN(2) == 0 {
			o.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
		} else if w.has[shares] {
			o.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = new(share(r))
		}
	case *appsv1.DaemonSet:
		t = &o.Spec.Template
		if w.has[onDelete] && r.IntN(2) == 0 {
			o.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
		} else if w.has[shares] {
			o.Spec.UpdateStrategy.RollingUpdate = daemonShares(r)
		}
	}
	w.slow(o)
	if w.has[scarce] {
		t.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": apires.MustParse(pick(r, "500m", "1"))}
		t.Spec.PriorityClassName = class(pick(r, int32(0), 0, 100, 1000), pick(r, false, false, true))
	}
	if w.has[apart] && r.IntN(2) == 0 && !w.pinned(o) {
		t.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: t.Labels}}}}}
	}
	return o
}

// ripening is how long pods of slow worlds are ready before they are available: less than the respite of a run.
const ripening = 13

func (w *world) slow(o object.Object) {
	if !w.has[slow] {
		return
	}
	switch o := o.(type) {
	case *appsv1.StatefulSet:
		o.Spec.MinReadySeconds, o.Spec.PodManagementPolicy = ripening, appsv1.ParallelPodManagement
		o.Spec.Replicas = new(max(3, *o.Spec.Replicas))
	case *appsv1.DaemonSet:
		o.Spec.MinReadySeconds = ripening
	}
}

// pinned says whether no anti-affinity of a workload's pods can be kept by everybody: daemons; those with local volumes,
// which may be two on one node; and those whose surplus ordinals, which go last, may be lower than wanted ones.
func (w *world) pinned(o object.Object) bool {
	s, set := o.(*appsv1.StatefulSet)
	_, daemon := o.(*appsv1.DaemonSet)
	return daemon || set && (len(s.Spec.VolumeClaimTemplates) > 0 || w.has[reserved])
}

// note draws the annotations of a workload; an empty value is none.
func (w *world) note(r *rand.Rand, o object.Object, notes map[string]string) {
	set := func(f feature, key string, values ...string) {
		if !w.has[f] {
			return
		}
		if v := pick(r, values...); v != "" {
			notes[key] = v
		} else {
			delete(notes, key)
		}
	}
	switch o.(type) {
	case *appsv1.Deployment:
		set(canaries, rollout.StepsAnnotation, "25%:20s,50%", "10%,40%:1m,70%", "50%:5m", "34%", "")
		set(rollbacks, autoRollback, "true", "true", "false", "")
		set(replacement, rollout.ReplacementAnnotation, "TerminationStarted", "TerminationComplete", "TerminationComplete", "")
	case *appsv1.StatefulSet:
		set(deadlines, progress.Annotation, "30", "60", "")
		set(reserved, statefulset.ReserveOrdinals, "1", "0,2", "3", "")
	case *appsv1.DaemonSet:
		set(deadlines, progress.Annotation, "30", "60", "")
		set(held, daemonset.Paused, "true", "false", "", "")
		set(held, daemonset.CanarySelector, "half=a", "", "")
		set(held, daemonset.Partition, "1", "50%", "", "")
	}
}

func share(r *rand.Rand) intstr.IntOrString {
	return pick(r, intstr.FromString("25%"), intstr.FromString("50%"), intstr.FromString("100%"), intstr.FromInt32(1), intstr.FromInt32(3))
}

func daemonShares(r *rand.Rand) *appsv1.RollingUpdateDaemonSet {
	ru := &appsv1.RollingUpdateDaemonSet{MaxUnavailable: new(share(r)), MaxSurge: new(intstr.FromInt32(0))}
	if r.IntN(2) == 0 {
		ru.MaxSurge, ru.MaxUnavailable = ru.MaxUnavailable, ru.MaxSurge
	}
	return ru
}

// class names a priority class, whose pods preempt others or never do.
func class(value int32, never bool) string {
	name := fmt.Sprintf("p%d", value)
	if never {
		name += "-never"
	}
	return name
}

// classes makes the priority classes that workloads name.
func (w *world) classes() {
	for _, value := range []int32{0, 100, 1000, 5000} {
		for _, policy := range []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever} {
			w.make(&schedulingv1.PriorityClass{
				ObjectMeta: metav1.ObjectMeta{Name: class(value, policy == corev1.PreemptNever)}, Value: value, PreemptionPolicy: &policy})
		}
	}
}

// setUpFeatures makes what the world's features add to what every world has.
func (w *world) setUpFeatures(r *rand.Rand) {
	if w.has[twins] {
		for range 1 + r.IntN(2) {
			w.make(w.applyFeatures(r, w.workload(r, pick(r, "dep2", "sts2", "ds2", "dep", "sts"))))
		}
	}
	if w.has[quotas] {
		w.make(&corev1.ResourceQuota{ObjectMeta: meta("quota"), Spec: corev1.ResourceQuotaSpec{Hard: podsHard(3 + r.IntN(8))}})
	}
	if w.has[budgets] {
		for _, name := range w.names() {
			if r.IntN(3) > 0 {
				w.make(budget(r, name))
			}
		}
	}
}

func podsHard(n int) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourcePods: *apires.NewQuantity(int64(n), apires.DecimalSI)}
}

// workload draws a workload of a name.
func (w *world) workload(r *rand.Rand, name string) object.Object {
	labels := map[string]string{"app": name}
	switch res, _ := kindOf(name); res {
	case resource.Deployments:
		d := w.deployment(r)
		d.Name, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels = name, labels, labels
		return d
	case resource.StatefulSets:
		s := w.statefulSet(r)
		s.Name, s.Spec.ServiceName, s.Spec.Selector.MatchLabels, s.Spec.Template.Labels = name, name, labels, labels
		return s
	default:
		d := w.daemonSet(r)
		d.Name, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels = name, labels, labels
		return d
	}
}

// budget draws a disruption budget over a workload's pods.
func budget(r *rand.Rand, app string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: meta(app), Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector(app)}}
	ration(r, b)
	return b
}

func ration(r *rand.Rand, b *policyv1.PodDisruptionBudget) {
	b.Spec.MinAvailable, b.Spec.MaxUnavailable = nil, nil
	if r.IntN(2) == 0 {
		b.Spec.MinAvailable = new(pick(r, intstr.FromInt32(1), intstr.FromInt32(3), intstr.FromString("50%")))
	} else {
		b.Spec.MaxUnavailable = new(pick(r, intstr.FromInt32(0), intstr.FromInt32(1), intstr.FromString("34%")))
	}
	b.Spec.UnhealthyPodEvictionPolicy = new(pick(r, policyv1.AlwaysAllow, policyv1.IfHealthyBudget))
}

// room is what a new node has to give.
func (w *world) room() corev1.ResourceList {
	cpu := "8"
	if w.has[scarce] && !w.peace {
		cpu = "2"
	}
	return corev1.ResourceList{"cpu": apires.MustParse(cpu), "memory": apires.MustParse("16Gi"), "pods": apires.MustParse("40")}
}
