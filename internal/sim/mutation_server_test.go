package sim

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"coracle/internal/client"
	"coracle/internal/cluster/garbage"
	"coracle/internal/cluster/namespace"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
	res "coracle/internal/resource"
)

// muted has a controller do nothing.
func muted(plan.Input, plan.Plan) plan.Plan { return plan.Plan{} }

// updated changes the objects of a kind that a plan updates.
func updated[T object.Object](change func(in plan.Input, o T)) func(plan.Input, plan.Plan) plan.Plan {
	return each(func(in plan.Input, a plan.Action) plan.Action {
		if u, ok := a.(plan.Update); ok {
			if o, ok := u.Object.(T); ok {
				change(in, o)
			}
		}
		return a
	})
}

// sparing drops the actions on a kind.
func sparing(kind res.Resource) func(plan.Input, plan.Plan) plan.Plan {
	return each(func(_ plan.Input, a plan.Action) plan.Action {
		if a.Target().Resource == kind {
			return nil
		}
		return a
	})
}

// evicting has the pod decided about deleted when its node has a taint that keeps.
func evicting(in plan.Input, p plan.Plan) plan.Plan {
	o, ok := in.Reader.Get(res.Pods, in.Key.Namespace, in.Key.Name)
	if !ok || len(p.Actions) > 0 || o.GetDeletionTimestamp() != nil {
		return p
	}
	if n, ok := in.Reader.Get(res.Nodes, "", o.(*corev1.Pod).Spec.NodeName); ok && len(n.(*corev1.Node).Spec.Taints) > 0 {
		p.Actions = append(p.Actions, plan.Delete{Object: object.RefOf(o)})
	}
	return p
}

// collecting has the object decided about collected though its owner lives.
func collecting(in plan.Input, p plan.Plan) plan.Plan {
	if o, ok := in.Reader.Get(res.Pods, in.Key.Namespace, in.Key.Name); ok && len(p.Actions) == 0 && len(o.GetOwnerReferences()) > 0 {
		p.Actions = append(p.Actions, plan.Delete{Object: object.RefOf(o)})
	}
	return p
}

// letting lets the claim decided about go.
func letting(in plan.Input, p plan.Plan) plan.Plan {
	if o, ok := in.Reader.Get(res.PersistentVolumeClaims, in.Key.Namespace, in.Key.Name); ok && len(o.GetFinalizers()) > 0 {
		next := o.DeepCopyObject().(object.Object)
		next.SetFinalizers(nil)
		p.Actions = []plan.Action{plan.Update{Object: next}}
	}
	return p
}

// forcing takes pods off nodes that are not ready.
func forcing(in plan.Input, p plan.Plan) plan.Plan {
	o, ok := in.Reader.Get(res.Pods, in.Key.Namespace, in.Key.Name)
	if !ok {
		return p
	}
	n, ok := in.Reader.Get(res.Nodes, "", o.(*corev1.Pod).Spec.NodeName)
	if ok && slices.ContainsFunc(n.(*corev1.Node).Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeUnreachable }) {
		p.Actions = []plan.Action{plan.Delete{Object: object.RefOf(o), GraceSeconds: new(int64)}}
	}
	return p
}

func counted(by int64) func(plan.Input, plan.Plan) plan.Plan {
	return status(func(q *corev1.ResourceQuota) {
		n := q.Status.Used[corev1.ResourcePods]
		n.Add(*resource.NewQuantity(by, resource.DecimalSI))
		q.Status.Used[corev1.ResourcePods] = n
	})
}

// crooked is what the scheduler reaches the API by, with a defect in its bindings.
type crooked struct {
	client.Interface
	bind func(c client.Interface, b *corev1.Binding) bool
}

// CreateSub implements client.Interface.
func (c crooked) CreateSub(ctx context.Context, ref object.Ref, subresource string, obj any) (any, error) {
	if b, ok := obj.(*corev1.Binding); ok {
		if b = b.DeepCopy(); !c.bind(c.Interface, b) {
			return b, nil
		}
		obj = b
	}
	return c.Interface.CreateSub(ctx, ref, subresource, obj)
}

func binds(change func(c client.Interface, b *corev1.Binding) bool) func(client.Interface) client.Interface {
	return func(c client.Interface) client.Interface { return crooked{Interface: c, bind: change} }
}

// astray binds to the node of the lowest name, or of the highest.
func astray(last bool) func(client.Interface) client.Interface {
	return binds(func(c client.Interface, b *corev1.Binding) bool {
		nodes, _, _ := c.List(context.Background(), res.Nodes, client.ListOptions{})
		if len(nodes) > 0 {
			b.Target.Name = nodes[0].GetName()
			if last {
				b.Target.Name = nodes[len(nodes)-1].GetName()
			}
		}
		return true
	})
}

func anyOutcome(change func(*loop.Outcome)) func(loop.Task, *loop.Outcome) {
	return func(_ loop.Task, o *loop.Outcome) { change(o) }
}

// serverMutations are defects in the cluster's own controllers, the scheduler, quotas and the loop.
var serverMutations = []mutation{
	{Name: "a node keeps the taint of its silence", Controller: "node-lifecycle-controller", Plan: updated(func(in plan.Input, n *corev1.Node) {
		if o, ok := in.Reader.Get(res.Nodes, "", n.Name); ok && len(n.Spec.Taints) < len(o.(*corev1.Node).Spec.Taints) {
			n.Spec.Taints = o.(*corev1.Node).Spec.Taints
		}
	})},
	{Name: "pods are evicted that tolerate it", Controller: "taint-eviction-controller", Plan: evicting},
	{Name: "pods are evicted before their time", Controller: "taint-eviction-controller", Plan: func(in plan.Input, p plan.Plan) plan.Plan {
		if !p.Again.IsZero() {
			return evicting(in, p)
		}
		return p
	}},
	{Name: "nobody collects the pods of lost nodes", Controller: "pod-garbage-collector", Plan: muted},
	{Name: "pods are forced off nodes that are silent", Controller: "pod-garbage-collector", Plan: forcing},
	{Name: "two nodes have one range", Controller: "node-ipam-controller", Plan: updated(func(_ plan.Input, n *corev1.Node) {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.244.0.0/24", []string{"10.244.0.0/24"}
	})},
	{Name: "the last node has no range", Controller: "node-ipam-controller", Plan: dropLast(func(plan.Action) bool { return true })},
	{Name: "nobody collects pods", Controller: garbage.Name, Plan: sparing(res.Pods)},
	{Name: "nobody collects replica sets", Controller: garbage.Name, Plan: sparing(res.ReplicaSets)},
	{Name: "nobody collects revisions", Controller: garbage.Name, Plan: sparing(res.ControllerRevisions)},
	{Name: "pods are collected whose owner lives", Controller: garbage.Name, Plan: collecting},
	{Name: "a namespace never ends", Where: []feature{namespaces}, Controller: namespace.Name, Plan: sparing(res.Namespaces)},
	{Name: "a namespace keeps its pods", Where: []feature{namespaces}, Controller: namespace.Name, Plan: sparing(res.Pods)},
	{Name: "a namespace has no service account", Controller: "service-account-controller", Plan: muted},
	{Name: "a namespace trusts nobody", Controller: "root-ca-certificate-publisher", Plan: muted},
	{Name: "a namespace trusts somebody else", Controller: "root-ca-certificate-publisher", Plan: each(func(_ plan.Input, a plan.Action) plan.Action {
		switch a := a.(type) {
		case plan.Create:
			a.Object.(*corev1.ConfigMap).Data = map[string]string{"ca.crt": "other"}
		case plan.Update:
			a.Object.(*corev1.ConfigMap).Data = map[string]string{"ca.crt": "other"}
		}
		return a
	})},
	{Name: "claims are let go while they are used", Controller: "persistentvolumeclaim-protection-controller", Plan: letting},
	{Name: "claims are never let go", Controller: "persistentvolumeclaim-protection-controller", Plan: updated(func(_ plan.Input, c *corev1.PersistentVolumeClaim) {
		if c.DeletionTimestamp != nil {
			c.Finalizers = []string{"kubernetes.io/pvc-protection"}
		}
	})},
	{Name: "a quota counts one pod too few", Where: []feature{quotas}, Controller: "resourcequota-controller", Plan: counted(-1)},
	{Name: "a quota counts one pod too many", Where: []feature{quotas}, Controller: "resourcequota-controller", Plan: counted(1)},
	{Name: "a quota is never counted again", Where: []feature{quotas}, Controller: "resourcequota-controller", Plan: muted},
	{Name: "a quota is charged nothing", Where: []feature{quotas}, Bill: func([]quota.Item) []quota.Item { return nil }},
	{Name: "a budget is never told again", Where: []feature{budgets}, Controller: "disruption-controller", Plan: func(_ plan.Input, p plan.Plan) plan.Plan {
		if b, ok := p.Status.(*policyv1.PodDisruptionBudget); ok && b.Status.ObservedGeneration > 0 && b.Generation > 1 {
			p.Status = nil
		}
		return p
	}},
	{Name: "the scheduler binds to the first node", Scheduler: astray(false)},
	{Name: "the scheduler binds to the last node", Scheduler: astray(true)},
	{Name: "the scheduler forgets bindings", Scheduler: binds(func(_ client.Interface, b *corev1.Binding) bool { return !strings.HasSuffix(b.Name, "2") })},
	{Name: "the loop forgets when to look again", Outcome: anyOutcome(func(o *loop.Outcome) { o.Again = time.Time{} })},
	{Name: "the loop does not retry after an old picture", Outcome: anyOutcome(func(o *loop.Outcome) { o.Retry, o.Stale = false, false })},
	{Name: "the loop does not wait to see its own writes", Outcome: anyOutcome(func(o *loop.Outcome) { o.Writes = nil })},
	{Name: "the loop writes whatever the object has become", Action: func(a plan.Action) plan.Action {
		if u, ok := a.(plan.Update); ok {
			u.Object.SetResourceVersion("")
		}
		return a
	}},
}
