package sim

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/cluster/disruption"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/daemonset"
	"coracle/internal/workload/deployment"
	"coracle/internal/workload/rollout"
	"coracle/internal/workload/statefulset"
)

// altered is a Reader in which one object reads otherwise.
type altered struct {
	object.Reader
	ref object.Ref
	as  object.Object
}

func (a altered) Get(res resource.Resource, namespace, name string) (object.Object, bool) {
	if res == a.ref.Resource && namespace == a.ref.Namespace && name == a.ref.Name {
		return a.as, true
	}
	return a.Reader.Get(res, namespace, name)
}

// misread has a controller decide on its object as change leaves it; what it writes of the object itself is kept to
// its status, so that the defect is in its decisions alone.
func misread[T object.Object](of func() plan.Controller, change func(T)) func(plan.Input, plan.Plan) plan.Plan {
	ctl := of()
	return func(in plan.Input, p plan.Plan) plan.Plan {
		o, ok := in.Reader.Get(ctl.For, in.Key.Namespace, in.Key.Name)
		if !ok {
			return p
		}
		as := o.DeepCopyObject().(T)
		change(as)
		in.Reader = altered{in.Reader, object.RefOf(o), as}
		p = ctl.Plan(in)
		if p.Status != nil {
			p.Status = p.Status.DeepCopyObject().(object.Object)
			notes := maps.Clone(p.Status.GetAnnotations())
			for k, v := range o.GetAnnotations() {
				if as.GetAnnotations()[k] != v {
					notes[k] = v // a Deployment's status carries annotations
				}
			}
			p.Status.SetAnnotations(notes)
		}
		return p
	}
}

func aDeployment(change func(*appsv1.Deployment)) func(plan.Input, plan.Plan) plan.Plan {
	return misread(deployment.Controller, change)
}

func aStatefulSet(change func(*appsv1.StatefulSet)) func(plan.Input, plan.Plan) plan.Plan {
	return misread(statefulset.Controller, change)
}

func aDaemonSet(change func(*appsv1.DaemonSet)) func(plan.Input, plan.Plan) plan.Plan {
	return misread(daemonset.Controller, change)
}

// more makes a number or percentage greater by one, or by as much again.
func more(v *intstr.IntOrString) *intstr.IntOrString {
	switch {
	case v == nil:
		return new(intstr.FromInt32(2))
	case v.Type == intstr.Int:
		return new(intstr.FromInt32(v.IntVal + 1))
	}
	n, _ := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return new(intstr.FromString(strconv.Itoa(2*n) + "%"))
}

// twoAtATime deletes the next surplus ordinal along with the one that is due.
func twoAtATime(in plan.Input, p plan.Plan) plan.Plan {
	for _, a := range p.Actions {
		d, ok := a.(plan.Delete)
		if !ok || d.Object.Resource != resource.Pods {
			continue
		}
		at := strings.LastIndexByte(d.Object.Name, '-')
		n, _ := strconv.Atoi(d.Object.Name[at+1:])
		if o, there := in.Reader.Get(resource.Pods, in.Key.Namespace, d.Object.Name[:at+1]+strconv.Itoa(n-1)); there && o.GetDeletionTimestamp() == nil {
			p.Actions = append(slices.Clone(p.Actions), plan.Delete{Object: object.RefOf(o)})
		}
		break
	}
	return p
}

// without drops the annotations that it names.
func without[T object.Object](keys ...string) func(T) {
	return func(o T) {
		kept := map[string]string{}
		for k, v := range o.GetAnnotations() {
			if !slices.Contains(keys, k) {
				kept[k] = v
			}
		}
		o.SetAnnotations(kept)
	}
}

func rolls(s *appsv1.StatefulSet) *appsv1.RollingUpdateStatefulSetStrategy {
	if s.Spec.UpdateStrategy.RollingUpdate == nil {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
	}
	return s.Spec.UpdateStrategy.RollingUpdate
}

// moreMutations are defects in what only some worlds have.
var moreMutations = []mutation{
	{Name: "a StatefulSet takes its partition one too low", Controller: sts, Plan: aStatefulSet(func(s *appsv1.StatefulSet) {
		if ru := s.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
			ru.Partition = new(max(0, *ru.Partition-1))
		}
	})},
	{Name: "a StatefulSet takes one pod more than maxUnavailable", Controller: sts, Plan: aStatefulSet(func(s *appsv1.StatefulSet) {
		rolls(s).MaxUnavailable = more(rolls(s).MaxUnavailable)
	})},
	{Name: "a StatefulSet rolls under OnDelete", Where: []feature{onDelete}, Controller: sts, Plan: aStatefulSet(func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
	})},
	{Name: "a StatefulSet scales down two at a time", Controller: sts, Plan: twoAtATime},
	{Name: "a StatefulSet is not ordered", Controller: sts, Plan: aStatefulSet(func(s *appsv1.StatefulSet) {
		s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	})},
	{Name: "a StatefulSet ignores reserved ordinals", Where: []feature{reserved}, Controller: sts, Plan: aStatefulSet(without[*appsv1.StatefulSet](statefulset.ReserveOrdinals))},
	{Name: "a StatefulSet ignores its first ordinal", Where: []feature{reserved}, Controller: sts, Plan: aStatefulSet(func(s *appsv1.StatefulSet) { s.Spec.Ordinals = nil })},
	{Name: "a StatefulSet ignores minReadySeconds", Controller: sts, Plan: aStatefulSet(func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = 0 })},
	{Name: "a StatefulSet keeps one revision too many", Controller: sts, Plan: aStatefulSet(func(s *appsv1.StatefulSet) {
		s.Spec.RevisionHistoryLimit = new(*s.Spec.RevisionHistoryLimit + 1)
	})},
	{Name: "a StatefulSet deletes claims it is to keep when scaled", Controller: sts, Plan: aStatefulSet(func(s *appsv1.StatefulSet) {
		s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	})},
	{Name: "a StatefulSet makes successors at once", Controller: sts, Plan: hasty(statefulset.Controller)},
	{Name: "a Deployment makes successors at once", Controller: dep, Plan: hasty(deployment.Controller)},
	{Name: "a StatefulSet ends its rollout before its pods are available", Where: []feature{slow}, Controller: sts, Plan: status(func(s *appsv1.StatefulSet) {
		if st := &s.Status; st.UpdatedReplicas == st.Replicas && st.ReadyReplicas == st.Replicas && st.Replicas == *s.Spec.Replicas {
			st.CurrentRevision = st.UpdateRevision
		}
	})},
	{Name: "a DaemonSet takes pods that are not yet available for down", Where: []feature{slow}, Controller: ds, Plan: unripe(daemonset.Controller)},
	{Name: "a StatefulSet takes pods that are not yet available for down", Where: []feature{slow}, Controller: sts, Plan: unripe(statefulset.Controller)},
	{Name: "a DaemonSet takes one node more than maxUnavailable", Controller: ds, Plan: aDaemonSet(func(d *appsv1.DaemonSet) {
		if ru := d.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.MaxUnavailable.String() != "0" {
			ru.MaxUnavailable = more(ru.MaxUnavailable)
		}
	})},
	{Name: "a DaemonSet surges on one node too many", Controller: ds, Plan: aDaemonSet(func(d *appsv1.DaemonSet) {
		if ru := d.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.MaxSurge.String() != "0" {
			ru.MaxSurge = more(ru.MaxSurge)
		}
	})},
	{Name: "a DaemonSet stops its pods in place of surging", Controller: ds, Plan: aDaemonSet(func(d *appsv1.DaemonSet) {
		if ru := d.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.MaxSurge.String() != "0" {
			ru.MaxSurge, ru.MaxUnavailable = ru.MaxUnavailable, ru.MaxSurge
		}
	})},
	{Name: "a DaemonSet rolls under OnDelete", Where: []feature{onDelete}, Controller: ds, Plan: aDaemonSet(func(d *appsv1.DaemonSet) {
		d.Spec.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	})},
	{Name: "a paused DaemonSet rolls", Where: []feature{held}, Controller: ds, Plan: aDaemonSet(without[*appsv1.DaemonSet](daemonset.Paused))},
	{Name: "a DaemonSet ignores its canary selector", Where: []feature{held}, Controller: ds, Plan: aDaemonSet(without[*appsv1.DaemonSet](daemonset.CanarySelector))},
	{Name: "a DaemonSet ignores its partition", Where: []feature{held}, Controller: ds, Plan: aDaemonSet(without[*appsv1.DaemonSet](daemonset.Partition))},
	{Name: "a DaemonSet keeps one revision too many", Controller: ds, Plan: aDaemonSet(func(d *appsv1.DaemonSet) {
		d.Spec.RevisionHistoryLimit = new(*d.Spec.RevisionHistoryLimit + 1)
	})},
	{Name: "a Deployment ignores its canary steps", Where: []feature{canaries}, Controller: dep, Plan: resizeStep},
	{Name: "a Deployment cuts canary pauses short", Where: []feature{canaries}, Controller: dep, Plan: aDeployment(func(d *appsv1.Deployment) {
		if steps := d.Annotations[rollout.StepsAnnotation]; steps != "" {
			var out []string
			for _, s := range strings.Split(steps, ",") {
				s, _, _ = strings.Cut(s, ":")
				out = append(out, s)
			}
			d.Annotations[rollout.StepsAnnotation] = strings.Join(out, ",")
		}
	})},
	{Name: "a paused Deployment rolls", Controller: dep, Plan: aDeployment(func(d *appsv1.Deployment) { d.Spec.Paused = false })},
	{Name: "a Deployment recreates without waiting", Controller: dep, Plan: aDeployment(func(d *appsv1.Deployment) {
		d.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	})},
	{Name: "a Deployment keeps one replica set too many", Controller: dep, Plan: aDeployment(func(d *appsv1.Deployment) {
		d.Spec.RevisionHistoryLimit = new(*d.Spec.RevisionHistoryLimit + 1)
	})},
	{Name: "a budget allows one disruption too many", Where: []feature{budgets}, Controller: disruption.Controllers()[0].Name, Plan: status(func(b *policyv1.PodDisruptionBudget) {
		b.Status.DisruptionsAllowed++
	})},
	{Name: "a budget counts terminating pods", Where: []feature{budgets}, Controller: disruption.Controllers()[0].Name, Plan: func(in plan.Input, p plan.Plan) plan.Plan {
		b, ok := p.Status.(*policyv1.PodDisruptionBudget)
		if !ok {
			return p
		}
		for _, o := range in.Reader.List(resource.Pods, b.Namespace) {
			if pod := o.(*corev1.Pod); pod.DeletionTimestamp != nil && pod.Labels["app"] == b.Name {
				b.Status.CurrentHealthy++
				b.Status.DisruptionsAllowed++
			}
		}
		return p
	}},
}

// hasty has a controller know nothing of how objects went.
func hasty(of func() plan.Controller) func(plan.Input, plan.Plan) plan.Plan {
	ctl := of()
	return func(in plan.Input, _ plan.Plan) plan.Plan {
		in.Witness.Partings = nil
		return ctl.Plan(in)
	}
}

// green is a Reader in which pods that are ready, and not yet for long enough, are not ready.
type green struct {
	object.Reader
	minReady int32
	now      time.Time
}

func (g green) Indexed(res resource.Resource, index, value string) []object.Object {
	out := g.Reader.Indexed(res, index, value)
	if res != resource.Pods {
		return out
	}
	out = slices.Clone(out)
	for i, o := range out {
		pod := o.(*corev1.Pod)
		if !podstate.Ready(pod) || podstate.Available(pod, g.minReady, g.now) {
			continue
		}
		pod = pod.DeepCopy()
		podstate.Condition(pod, corev1.PodReady).Status = corev1.ConditionFalse
		out[i] = pod
	}
	return out
}

// unripe has a controller take pods that are ready but not yet available for down.
func unripe(of func() plan.Controller) func(plan.Input, plan.Plan) plan.Plan {
	ctl := of()
	return func(in plan.Input, p plan.Plan) plan.Plan {
		o, ok := in.Reader.Get(ctl.For, in.Key.Namespace, in.Key.Name)
		if !ok {
			return p
		}
		g := green{Reader: in.Reader, now: in.Now}
		switch o := o.(type) {
		case *appsv1.DaemonSet:
			g.minReady = o.Spec.MinReadySeconds
		case *appsv1.StatefulSet:
			g.minReady = o.Spec.MinReadySeconds
		}
		in.Reader = g
		p.Actions = ctl.Plan(in).Actions
		return p
	}
}

// resizeStep has the new replica set of a canary grow by one more than it is to.
func resizeStep(in plan.Input, p plan.Plan) plan.Plan {
	return each(func(in plan.Input, a plan.Action) plan.Action {
		if u, ok := a.(plan.Update); ok {
			if set, ok := u.Object.(*appsv1.ReplicaSet); ok && set.Annotations["coracle.io/step"] != "" {
				if before, there := in.Reader.Get(resource.ReplicaSets, set.Namespace, set.Name); there && *set.Spec.Replicas > *before.(*appsv1.ReplicaSet).Spec.Replicas {
					set.Spec.Replicas = new(*set.Spec.Replicas + 1)
				}
			}
		}
		return a
	})(in, p)
}
