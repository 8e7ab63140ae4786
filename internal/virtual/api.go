package virtual

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"coracle/internal/apiserver/admit"
	"coracle/internal/client"
	"coracle/internal/client/fake"
	"coracle/internal/kind"
	"coracle/internal/object"
	"coracle/internal/quota"
	"coracle/internal/resource"
)

// api is the virtual API: the cluster in memory behind the server's own defaults, admission and validation of what is
// created. Updates are those of controllers, of nodes and of documents that the server has seen, and pass as they are.
type api struct {
	*fake.Cluster
	of    *Cluster
	chain *admit.Chain
}

var _ client.Interface = (*api)(nil)

// Create implements client.Interface.
func (a *api) Create(ctx context.Context, obj object.Object) (object.Object, error) {
	res := resource.Of(obj)
	k, ok := kind.For(res)
	if !ok {
		return nil, apierrors.NewBadRequest("no such kind: " + res.String())
	}
	obj = obj.DeepCopyObject().(object.Object)
	obj.SetResourceVersion("")
	if k.Default != nil {
		k.Default(obj)
	}
	who := &user.DefaultInfo{Name: "system:coracle", Groups: []string{user.SystemPrivilegedGroup}}
	ctx = request.WithUser(request.WithNamespace(ctx, obj.GetNamespace()), who)
	k.Strategy.PrepareForCreate(ctx, obj)
	record := admission.NewAttributesRecord(obj, nil, res.GVK(), obj.GetNamespace(), obj.GetName(),
		res.GVK().GroupVersion().WithResource(res.Plural), "", admission.Create, &metav1.CreateOptions{}, false, who)
	if err := a.chain.Admit(ctx, record, nil); err != nil {
		return nil, err
	}
	if obj.GetName() != "" {
		// A name that is to be generated is none to be judged; what has one is judged before anything is charged for it.
		if invalid := k.Strategy.Validate(ctx, obj); len(invalid) > 0 {
			return nil, apierrors.NewInvalid(res.GVK().GroupKind(), obj.GetName(), invalid)
		}
		if _, err := a.Get(ctx, res, obj.GetNamespace(), obj.GetName()); err == nil {
			return nil, apierrors.NewAlreadyExists(res.GroupResource(), obj.GetName())
		}
	}
	if err := a.chain.Validate(ctx, record, nil); err != nil {
		return nil, err
	}
	return a.Cluster.Create(ctx, obj)
}

// Update implements client.Interface. What a quota is said to use is counted anew as it is written down, as the server
// does: whoever counted may have had an old snapshot.
func (a *api) Update(ctx context.Context, obj object.Object, subresource string) (object.Object, error) {
	if q, ok := obj.(*corev1.ResourceQuota); ok && subresource == "status" && !a.of.cfg.Uncorrected {
		q = q.DeepCopy()
		q.Status.Used, _ = quota.Count(q, func(res resource.Resource) []object.Object {
			items, _, _ := a.List(ctx, res, client.ListOptions{Namespace: q.Namespace}) // it cannot fail
			return items
		}, a.of.now)
		obj = q
	}
	return a.Cluster.Update(ctx, obj, subresource)
}

// lookup finds objects for admission.
type lookup struct{ *api }

var _ admit.Cluster = lookup{}

// Get implements admit.Cluster.
func (l lookup) Get(res resource.Resource, namespace, name string) (runtime.Object, bool) {
	o, err := l.api.Get(context.Background(), res, namespace, name)
	return o, err == nil
}

// Await implements admit.Cluster: who waits tries again.
func (l lookup) Await(_ context.Context, res resource.Resource, namespace, name string) (runtime.Object, bool) {
	return l.Get(res, namespace, name)
}

// List implements admit.Cluster.
func (l lookup) List(res resource.Resource, namespace string) []runtime.Object {
	return asRuntime(l.of.truth.List(res, namespace))
}

// Any implements admit.Cluster.
func (l lookup) Any(res resource.Resource, namespace string) bool {
	return l.of.truth.Any(res, namespace)
}

func asRuntime(items []object.Object) []runtime.Object {
	out := make([]runtime.Object, len(items))
	for i, o := range items {
		out[i] = o
	}
	return out
}

// Charge takes what a write uses off the quotas of its namespace, or refuses it.
func (l lookup) Charge(ctx context.Context, at admission.Attributes) error {
	a := l.api
	obj, ok := at.GetObject().(object.Object)
	if !ok {
		return nil
	}
	items, _, err := a.List(ctx, resource.ResourceQuotas, client.ListOptions{Namespace: at.GetNamespace()})
	if err != nil {
		return err
	}
	now := a.of.now
	var quotas []*corev1.ResourceQuota
	for _, o := range items {
		q := o.(*corev1.ResourceQuota).DeepCopy()
		a.complete(ctx, q)
		quotas = append(quotas, q)
	}
	bill, err := quota.Bill(quotas, resource.Of(obj), obj, nil, now)
	if err != nil {
		return err
	}
	if a.of.cfg.Bill != nil {
		bill = a.of.cfg.Bill(bill)
	}
	for _, item := range bill {
		quota.Add(item.Quota.Status.Used, item.Amount)
		item.Quota.Status.Hard = item.Quota.Spec.Hard.DeepCopy()
		if _, err := a.Cluster.Update(ctx, item.Quota, "status"); err != nil {
			return err
		}
	}
	return nil
}

// complete counts what a quota's status does not tell yet, as the server does: a quota bites from the moment it is there.
func (a *api) complete(ctx context.Context, q *corev1.ResourceQuota) {
	quota.Complete(q, func(res resource.Resource) []runtime.Object {
		items, _, _ := a.List(ctx, res, client.ListOptions{Namespace: q.Namespace}) // it cannot fail
		return asRuntime(items)
	}, a.of.now)
}
