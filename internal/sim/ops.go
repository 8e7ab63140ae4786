package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/daemonset"
)

// moreWishes are what users do in worlds that have a feature, beyond what they do in all.
var moreOps = map[feature][]string{
	budgets: {"drain", "drain", "budget", "unbudget"}, scarce: {"priority", "scale"}, canaries: {"annotate", "image", "scale"}, rollbacks: {"annotate", "bad", "bad"},
	onDelete: {"on-delete", "delete-pod"}, reserved: {"annotate", "start"}, growth: {"grow", "grow"}, held: {"annotate", "daemon-image", "daemon-image", "daemon-image"},
	namespaces: {"delete-namespace", "make-namespace", "make-namespace", "remake", "remake"}, deadlines: {"annotate", "bad"},
	replacement: {"annotate", "recreate"}, policies: {"policy", "policy"}, shares: {"shares"},
	quotas: {"quota", "scale", "scale"},
	slow:   {"daemon-image", "daemon-image", "daemon-image", "daemon-image", "image", "set-image", "set-image", "set-image", "set-image"},
}

// opList is what a user of this world may do, each as often as it is to come.
func (w *world) opList(common []string) []string {
	if len(w.has) == 0 {
		return common
	}
	out := append([]string(nil), common...)
	for _, f := range features {
		if w.has[f] {
			out = append(out, moreOps[f]...)
		}
	}
	return out
}

// featureOp is what a user does who makes use of a feature; nil for what this is not.
func (w *world) featureOp(e event, r *rand.Rand) func() {
	name := e.Key.Name
	switch e.Who {
	case "drain":
		return func() { w.drain(name) }
	case "budget":
		return func() {
			w.make(budget(r, name))
			edit(w, resource.PodDisruptionBudgets, name, func(b *policyv1.PodDisruptionBudget) { ration(r, b) })
		}
	case "unbudget":
		return func() { w.delete(resource.PodDisruptionBudgets, name, metav1.DeleteOptions{}) }
	case "priority":
		return func() {
			w.editTemplate(name, func(t *corev1.PodTemplateSpec) {
				never := strings.HasSuffix(t.Spec.PriorityClassName, "-never")
				t.Spec.PriorityClassName = class(pick(r, int32(0), 100, 1000, 5000), never)
			})
		}
	case "annotate":
		return func() { w.annotate(r, name) }
	case "daemon-image":
		return func() {
			w.editTemplate("ds", func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Image = pick(r, "good:1", "good:2", "good:3") })
		}
	case "quota":
		return func() {
			edit(w, resource.ResourceQuotas, "quota", func(q *corev1.ResourceQuota) { q.Spec.Hard = podsHard(2 + r.IntN(12)) })
		}
	case "set-image":
		return func() {
			w.editTemplate("sts", func(t *corev1.PodTemplateSpec) {
				t.Spec.Containers[0].Image = pick(r, "good:1", "good:2", "good:3", "bad:1")
			})
		}
	case "delete-namespace":
		if e.N%3 != 0 {
			return nil
		}
		return func() { w.delete(resource.Namespaces, ns, metav1.DeleteOptions{}) }
	case "make-namespace":
		return func() { w.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}) }
	}
	return w.strategyOp(e, r)
}

func (w *world) strategyOp(e event, r *rand.Rand) func() {
	name := e.Key.Name
	switch e.Who {
	case "on-delete":
		return func() {
			edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) {
				s.Spec.UpdateStrategy = pick(r, appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType},
					appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(0))}})
			})
			edit(w, resource.DaemonSets, name, func(d *appsv1.DaemonSet) {
				d.Spec.UpdateStrategy = pick(r, appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}, daemonStrategy(r))
			})
		}
	case "shares":
		return func() {
			edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) {
				if ru := s.Spec.UpdateStrategy.RollingUpdate; ru != nil {
					ru.MaxUnavailable = new(share(r))
				}
			})
			edit(w, resource.DaemonSets, name, func(d *appsv1.DaemonSet) {
				if d.Spec.UpdateStrategy.RollingUpdate != nil {
					d.Spec.UpdateStrategy.RollingUpdate = daemonShares(r)
				}
			})
		}
	case "recreate":
		return func() {
			edit(w, resource.Deployments, name, func(d *appsv1.Deployment) {
				// A Deployment that has begun to roll may have pods of two templates: only one at rest begins to recreate.
				if s := d.Status; s.ObservedGeneration == d.Generation && s.Replicas == s.UpdatedReplicas && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
					d.Spec.Strategy = rolling(r)
				}
			})
		}
	case "start":
		return func() {
			edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: r.Int32N(4)} })
		}
	case "grow":
		return func() {
			edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) {
				for i := range s.Spec.VolumeClaimTemplates {
					s.Spec.VolumeClaimTemplates[i].Spec.Resources.Requests = corev1.ResourceList{"storage": apires.MustParse(pick(r, "1Gi", "2Gi", "3Gi"))}
				}
			})
		}
	case "policy":
		return func() { w.policy(r, name) }
	}
	return nil
}

// policy changes a setting that bounds what is kept, or how long a pod must be ready.
func (w *world) policy(r *rand.Rand, name string) {
	ready, limit := r.Int32N(2)*5, r.Int32N(3)
	keep := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
	edit(w, resource.Deployments, name, func(d *appsv1.Deployment) { d.Spec.MinReadySeconds, d.Spec.RevisionHistoryLimit = ready, &limit })
	edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) {
		s.Spec.MinReadySeconds, s.Spec.RevisionHistoryLimit = ready, &limit
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: pick(r, keep...), WhenScaled: pick(r, keep...)}
	})
	edit(w, resource.DaemonSets, name, func(d *appsv1.DaemonSet) { d.Spec.MinReadySeconds, d.Spec.RevisionHistoryLimit = ready, &limit })
}

func (w *world) annotate(r *rand.Rand, name string) {
	res, _ := kindOf(name)
	edit(w, res, name, func(o object.Object) {
		notes := map[string]string{}
		for k, v := range o.GetAnnotations() {
			notes[k] = v
		}
		w.note(r, o, notes)
		o.SetAnnotations(notes)
	})
}

// drain cordons a node and has its pods evicted, daemons aside, as kubectl drain does once.
func (w *world) drain(name string) {
	edit(w, resource.Nodes, name, func(n *corev1.Node) { n.Spec.Unschedulable = true })
	for _, o := range w.Truth().List(resource.Pods, ns) {
		pod := o.(*corev1.Pod)
		if ref := claim.Controller(pod); pod.Spec.NodeName != name || ref != nil && ref.Kind == "DaemonSet" {
			continue
		}
		_, _ = w.api.CreateSub(w.ctx, object.RefOf(pod), "eviction", &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: pod.Name}})
	}
}

// healFeatures has the user take back what a feature did to keep the world from rest: too little room, and rules
// that cannot be met.
func (w *world) healFeatures() {
	w.peace = true
	edit(w, resource.ResourceQuotas, "quota", func(q *corev1.ResourceQuota) { q.Spec.Hard = podsHard(1000) })
	for _, m := range w.Machines() {
		if o, err := w.api.Get(w.ctx, resource.Nodes, "", m.Name); err == nil && w.has[scarce] {
			next := o.DeepCopyObject().(*corev1.Node)
			next.Status.Capacity, next.Status.Allocatable = w.room(), w.room()
			next.Status.Capacity["cpu"], next.Status.Allocatable["cpu"] = apires.MustParse("64"), apires.MustParse("64")
			_, _ = w.api.Update(w.ctx, next, "status")
		}
	}
	most := int32(len(w.Machines()))
	for _, name := range w.names() {
		edit(w, resource.Deployments, name, func(d *appsv1.Deployment) {
			if d.Spec.Template.Spec.Affinity != nil {
				d.Spec.Replicas = new(min(*d.Spec.Replicas, most))
				if d.Spec.Strategy.RollingUpdate != nil {
					d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt32(0)), MaxUnavailable: new(intstr.FromInt32(1))}
				}
			}
		})
		// In order a surplus pod goes last, and holds a node until then: there must be one for each.
		if o, ok := w.Truth().Get(resource.StatefulSets, ns, name); ok && o.(*appsv1.StatefulSet).Spec.Template.Spec.Affinity != nil {
			for i := range 8 {
				w.addNode(fmt.Sprintf("n%d", i))
			}
		}
	}
}

// sweepBad has the user deal with pods that can never serve and that no controller may replace: under OnDelete they are
// deleted, and a DaemonSet is held no longer.
func (w *world) sweepBad() {
	for _, o := range w.Truth().List(resource.Pods, ns) {
		pod, ref := o.(*corev1.Pod), claim.Controller(o)
		if ref == nil || !strings.HasPrefix(pod.Spec.Containers[0].Image, "bad") {
			continue
		}
		owned := false
		edit(w, resource.StatefulSets, ref.Name, func(s *appsv1.StatefulSet) {
			owned = s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
		})
		edit(w, resource.DaemonSets, ref.Name, func(d *appsv1.DaemonSet) {
			owned = d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType
			for _, key := range []string{daemonset.Paused, daemonset.CanarySelector, daemonset.Partition} {
				delete(d.Annotations, key)
			}
		})
		if owned && pod.DeletionTimestamp == nil {
			w.delete(resource.Pods, pod.Name, metav1.DeleteOptions{})
		}
	}
}
