package sim

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

const (
	rs  = "replicaset-controller"
	dep = "deployment-controller"
	sts = "statefulset-controller"
	ds  = "daemonset-controller"
)

// each changes a plan's actions one by one; nil drops one.
func each(change func(in plan.Input, a plan.Action) plan.Action) func(plan.Input, plan.Plan) plan.Plan {
	return func(in plan.Input, p plan.Plan) plan.Plan {
		var out []plan.Action
		for _, a := range p.Actions {
			if b := change(in, a); b != nil {
				out = append(out, b)
			}
		}
		p.Actions = out
		return p
	}
}

// status changes the next status, or the one to be left alone.
func status[T object.Object](change func(T)) func(plan.Input, plan.Plan) plan.Plan {
	return func(_ plan.Input, p plan.Plan) plan.Plan {
		if s, ok := p.Status.(T); ok {
			change(s)
		}
		return p
	}
}

func isPod(o object.Object) bool { _, ok := o.(*corev1.Pod); return ok }

func firstCreate(p plan.Plan) (plan.Create, bool) {
	for _, a := range p.Actions {
		if c, ok := a.(plan.Create); ok && isPod(c.Object) {
			return c, true
		}
	}
	return plan.Create{}, false
}

func doubled(_ plan.Input, p plan.Plan) plan.Plan {
	if c, ok := firstCreate(p); ok {
		p.Actions = append(p.Actions, c)
	}
	return p
}

// resize changes how many replicas a Deployment asks of its sets, where it grows or shrinks one.
func resize(grow bool, by int32) func(plan.Input, plan.Plan) plan.Plan {
	return each(func(in plan.Input, a plan.Action) plan.Action {
		u, ok := a.(plan.Update)
		if !ok {
			return a
		}
		set, ok := u.Object.(*appsv1.ReplicaSet)
		if !ok {
			return a
		}
		before, ok := in.Reader.Get(resource.ReplicaSets, set.Namespace, set.Name)
		if !ok {
			return a
		}
		was, is := *before.(*appsv1.ReplicaSet).Spec.Replicas, *set.Spec.Replicas
		if was != is && is > was == grow && is+by >= 0 {
			set.Spec.Replicas = new(is + by)
		}
		return a
	})
}

// worst exchanges a pod to be deleted for one that is ready and would have been kept.
func worst(in plan.Input, p plan.Plan) plan.Plan {
	victims := map[string]bool{}
	for _, a := range p.Actions {
		victims[a.Target().Name] = true
	}
	for i, a := range p.Actions {
		d, ok := a.(plan.Delete)
		if !ok {
			continue
		}
		for _, o := range in.Reader.List(resource.Pods, in.Key.Namespace) {
			victim, there := in.Reader.Get(resource.Pods, in.Key.Namespace, d.Object.Name)
			if there && !victims[o.GetName()] && podstate.Ready(o.(*corev1.Pod)) && o.GetDeletionTimestamp() == nil &&
				len(o.GetOwnerReferences()) == 1 && len(victim.GetOwnerReferences()) == 1 && o.GetOwnerReferences()[0].UID == victim.GetOwnerReferences()[0].UID {
				d.Object = object.RefOf(o)
				p.Actions[i] = d
				return p
			}
		}
	}
	return p
}

// dead has a StatefulSet give up on a pod that is being deleted: it forces the deletion.
func forced(in plan.Input, p plan.Plan) plan.Plan {
	for _, o := range in.Reader.List(resource.Pods, in.Key.Namespace) {
		pod := o.(*corev1.Pod)
		if _, mine := identity(pod); mine && pod.DeletionTimestamp != nil && pod.Spec.NodeName != "" {
			p.Actions = append(p.Actions, plan.Delete{Object: object.RefOf(pod), GraceSeconds: new(int64)})
		}
	}
	return p
}

// lowest deletes the lowest ordinal in place of the highest.
func lowest(in plan.Input, p plan.Plan) plan.Plan {
	for i, a := range p.Actions {
		if d, ok := a.(plan.Delete); ok && d.Object.Resource == resource.Pods {
			if o, there := in.Reader.Get(resource.Pods, in.Key.Namespace, in.Key.Name+"-0"); there && o.GetDeletionTimestamp() == nil {
				d.Object = object.RefOf(o)
				p.Actions[i] = d
				break
			}
		}
	}
	return p
}

// unordered creates the next ordinal along with the one that is due.
func unordered(_ plan.Input, p plan.Plan) plan.Plan {
	if c, ok := firstCreate(p); ok {
		pod := c.Object.DeepCopyObject().(*corev1.Pod)
		last := pod.Name[len(pod.Name)-1]
		pod.Name = pod.Name[:len(pod.Name)-1] + string(last+1)
		p.Actions = append(p.Actions, plan.Create{Object: pod})
	}
	return p
}

// everywhere pins each daemon to a node that shall have none, if there is one.
func everywhere(in plan.Input, p plan.Plan) plan.Plan {
	c, ok := firstCreate(p)
	if !ok {
		return p
	}
	for _, o := range in.Reader.List(resource.Nodes, "") {
		pod := c.Object.DeepCopyObject().(*corev1.Pod)
		pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0] = o.GetName()
		p.Actions = append(p.Actions, plan.Create{Object: pod})
	}
	return p
}

// impatient deletes all of a DaemonSet's outdated pods at once.
func impatient(in plan.Input, p plan.Plan) plan.Plan {
	for _, a := range p.Actions {
		if _, ok := a.(plan.Delete); !ok {
			continue
		}
		for _, o := range in.Reader.List(resource.Pods, in.Key.Namespace) {
			named := slices.ContainsFunc(p.Actions, func(a plan.Action) bool { return a.Target().Name == o.GetName() })
			if o.GetLabels()["app"] == "ds" && o.GetDeletionTimestamp() == nil && !named {
				p.Actions = append(p.Actions, plan.Delete{Object: object.RefOf(o)})
			}
		}
		return p
	}
	return p
}

func dropLast(kind func(plan.Action) bool) func(plan.Input, plan.Plan) plan.Plan {
	return func(_ plan.Input, p plan.Plan) plan.Plan {
		for i, a := range slices.Backward(p.Actions) {
			if kind(a) {
				p.Actions = slices.Delete(slices.Clone(p.Actions), i, i+1)
				break
			}
		}
		return p
	}
}

func isCreate(a plan.Action) bool { c, ok := a.(plan.Create); return ok && isPod(c.Object) }
func isDelete(a plan.Action) bool { _, ok := a.(plan.Delete); return ok }
func isAdoption(a plan.Action) bool {
	u, ok := a.(plan.Update)
	return ok && plan.HasGuard[plan.Alive](u.When)
}

func outcome(controller string, change func(*loop.Outcome)) func(loop.Task, *loop.Outcome) {
	return func(t loop.Task, o *loop.Outcome) {
		if t.Controller.Name == controller {
			change(o)
		}
	}
}

var mutations = []mutation{
	{Name: "a ReplicaSet creates one too many", Controller: rs, Plan: doubled},
	{Name: "a ReplicaSet never creates the last pod", Controller: rs, Plan: dropLast(isCreate)},
	{Name: "a ReplicaSet never deletes the last pod", Controller: rs, Plan: dropLast(isDelete)},
	{Name: "a ReplicaSet deletes ready pods first", Controller: rs, Plan: worst},
	{Name: "a ReplicaSet counts one replica too many", Controller: rs, Plan: status(func(s *appsv1.ReplicaSet) { s.Status.Replicas++ })},
	{Name: "a ReplicaSet counts ready pods as available too early", Controller: rs, Plan: status(func(s *appsv1.ReplicaSet) { s.Status.AvailableReplicas = s.Status.Replicas })},
	{Name: "a ReplicaSet forgets its status", Controller: rs, Plan: func(_ plan.Input, p plan.Plan) plan.Plan { p.Status = nil; return p }},
	{Name: "a ReplicaSet adopts without asking whether it lives", Controller: rs, Plan: each(func(_ plan.Input, a plan.Action) plan.Action {
		if u, ok := a.(plan.Update); ok {
			u.When = nil
			return u
		}
		return a
	})},
	{Name: "a ReplicaSet never adopts", Controller: rs, Plan: dropLast(isAdoption)},
	{Name: "a ReplicaSet deletes by name alone", Controller: rs, Plan: each(func(_ plan.Input, a plan.Action) plan.Action {
		if d, ok := a.(plan.Delete); ok {
			d.Object.UID = ""
			return d
		}
		return a
	})},
	{Name: "a ReplicaSet does not wait to see its own writes", Outcome: outcome(rs, func(o *loop.Outcome) { o.Writes = nil })},
	{Name: "a Deployment surges by one too many", Controller: dep, Plan: resize(true, 1)},
	{Name: "a Deployment takes one too many", Controller: dep, Plan: resize(false, -1)},
	{Name: "a Deployment never finishes growing", Controller: dep, Plan: resize(true, -1)},
	{Name: "a Deployment never lets the last old pod go", Controller: dep, Plan: resize(false, 1)},
	{Name: "a Deployment counts one ready pod too few", Controller: dep, Plan: status(func(s *appsv1.Deployment) { s.Status.ReadyReplicas-- })},
	{Name: "a Deployment forgets which generation it saw", Controller: dep, Plan: status(func(s *appsv1.Deployment) { s.Status.ObservedGeneration = 1 })},
	{Name: "a StatefulSet forces pods off lost nodes", Controller: sts, Plan: forced},
	{Name: "a StatefulSet takes the lowest ordinal first", Controller: sts, Plan: lowest},
	{Name: "a StatefulSet does not wait for the ordinal before", Controller: sts, Plan: unordered},
	{Name: "a StatefulSet never creates the last pod", Controller: sts, Plan: dropLast(isCreate)},
	{Name: "a StatefulSet ignores its partition", Controller: sts, Plan: each(func(in plan.Input, a plan.Action) plan.Action {
		if c, ok := a.(plan.Create); ok && isPod(c.Object) {
			if o, there := in.Reader.Get(resource.StatefulSets, in.Key.Namespace, in.Key.Name); there {
				if r := o.(*appsv1.StatefulSet).Status.UpdateRevision; r != "" {
					c.Object.GetLabels()[appsv1.StatefulSetRevisionLabel] = r
				}
			}
		}
		return a
	})},
	{Name: "a StatefulSet owns the claims it is to keep", Controller: sts, Plan: each(func(in plan.Input, a plan.Action) plan.Action {
		if c, ok := a.(plan.Create); ok {
			if o, there := in.Reader.Get(resource.StatefulSets, in.Key.Namespace, in.Key.Name); there && object.RefOf(c.Object).Resource == resource.PersistentVolumeClaims {
				c.Object.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: o.GetName(), UID: o.GetUID()}})
			}
		}
		return a
	})},
	{Name: "a StatefulSet counts one updated pod too many", Controller: sts, Plan: status(func(s *appsv1.StatefulSet) { s.Status.UpdatedReplicas++ })},
	{Name: "a DaemonSet puts a pod on every node", Controller: ds, Plan: everywhere},
	{Name: "a DaemonSet updates all nodes at once", Controller: ds, Plan: impatient},
	{Name: "a DaemonSet never creates the last pod", Controller: ds, Plan: dropLast(isCreate)},
	{Name: "a DaemonSet leaves pods where none may be", Controller: ds, Plan: dropLast(isDelete)},
	{Name: "a DaemonSet counts one node too many", Controller: ds, Plan: status(func(s *appsv1.DaemonSet) { s.Status.DesiredNumberScheduled++ })},
	{Name: "a DaemonSet does not wait to see its own writes", Outcome: outcome(ds, func(o *loop.Outcome) { o.Writes = nil })},
	{Name: "deletions ignore what their object has become", Action: func(a plan.Action) plan.Action {
		if d, ok := a.(plan.Delete); ok && d.Object.Resource == resource.Pods {
			d.GraceSeconds = new(int64)
			return d
		}
		return a
	}},
	{Name: "nobody hears of a failure again", Outcome: func(_ loop.Task, o *loop.Outcome) { o.Failure, o.Retry = nil, false }},
}

// TestMutations proves that the promises bite: each defect is found within the worlds that make sim runs. Those that cannot
// show it are passed over.
func TestMutations(t *testing.T) {
	for of, list := range map[string][]mutation{"workloads": mutations, "features": moreMutations, "server": serverMutations, "promises": promiseMutations} {
		t.Run(of, func(t *testing.T) {
			for _, m := range list {
				t.Run(m.Name, func(t *testing.T) {
					t.Parallel()
					found(t, &m)
				})
			}
		})
	}
}

func found(t *testing.T, m *mutation) {
	const most = uint64(2000)
	for seed := m.Past; seed < most; seed++ {
		if !m.shows(seed + 1) {
			continue
		}
		if r := play(seed+1, busySteps, m); r.Broken != nil && play(seed+1, busySteps, nil).Broken == nil {
			t.Logf("in world %d: %.300v", seed+1, r.Broken)
			return
		}
	}
	t.Errorf("not found in %d worlds", most)
}
