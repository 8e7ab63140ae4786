package loop

import (
	"context"
	"fmt"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Apply carries one action out. Errors are the API's.
func Apply(ctx context.Context, c client.Interface, a plan.Action) Result {
	r := apply(ctx, c, a)
	if r.Err != nil && looksOld(Forgive(a, r.Err)) {
		r.Object = Live(ctx, c, a.Target())
	}
	return r
}

// Live reads the object that an action met otherwise than it expected, so that the next plan can
// wait for a snapshot that shows it. It returns nil when there is none.
func Live(ctx context.Context, c client.Interface, ref object.Ref) object.Object {
	if ref.Name == "" {
		return nil
	}
	o, err := c.Get(ctx, ref.Resource, ref.Namespace, ref.Name)
	if err != nil {
		return nil
	}
	return o
}

// WriteStatus writes a status. Errors are the API's.
func WriteStatus(ctx context.Context, c client.Interface, status object.Object) Result {
	o, err := c.Update(ctx, status, "status")
	if apierrors.IsConflict(err) {
		o = Live(ctx, c, object.RefOf(status))
	}
	return Result{o, err}
}

func apply(ctx context.Context, c client.Interface, a plan.Action) Result {
	switch a := a.(type) {
	case plan.Create:
		o, err := c.Create(ctx, a.Object)
		return Result{o, err}
	case plan.Update:
		return update(ctx, c, a)
	case plan.Delete:
		return remove(ctx, c, a)
	case plan.Evict:
		return evict(ctx, c, a)
	}
	return Result{Err: fmt.Errorf("no such action: %T", a)}
}

func update(ctx context.Context, c client.Interface, a plan.Update) Result {
	if ok, err := plan.Hold(lookup{ctx, c}, a.When); !ok || err != nil {
		return Result{Err: err}
	}
	o, err := c.Update(ctx, a.Object, a.Subresource)
	return Result{o, err}
}

func remove(ctx context.Context, c client.Interface, a plan.Delete) Result {
	if ok, err := plan.Hold(lookup{ctx, c}, a.When); !ok || err != nil {
		return Result{Err: err}
	}
	opts := metav1.DeleteOptions{GracePeriodSeconds: a.GraceSeconds}
	if a.Propagation != "" {
		opts.PropagationPolicy = &a.Propagation
	}
	if a.ResourceVersion != "" {
		opts.Preconditions = &metav1.Preconditions{ResourceVersion: &a.ResourceVersion}
	}
	o, err := c.Delete(ctx, a.Object, opts)
	return Result{o, err}
}

// evict reads the pod back, because an eviction's answer does not tell its revision.
func evict(ctx context.Context, c client.Interface, a plan.Evict) Result {
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: a.Pod.Namespace, Name: a.Pod.Name}}
	if a.Pod.UID != "" {
		eviction.DeleteOptions = metav1.NewPreconditionDeleteOptions(string(a.Pod.UID))
	}
	if _, err := c.CreateSub(ctx, a.Pod, "eviction", eviction); err != nil {
		return Result{Err: err}
	}
	o, err := c.Get(ctx, a.Pod.Resource, a.Pod.Namespace, a.Pod.Name)
	if apierrors.IsNotFound(err) {
		return Result{}
	}
	return Result{o, err}
}

// lookup asks the cluster for guards.
type lookup struct {
	ctx context.Context
	client.Interface
}

// Find implements plan.Lookup.
func (l lookup) Find(res resource.Resource, key object.Key) (object.Object, error) {
	o, err := l.Get(l.ctx, res, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

// All implements plan.Lookup.
func (l lookup) All(res resource.Resource, namespace string) ([]object.Object, error) {
	items, _, err := l.List(l.ctx, res, client.ListOptions{Namespace: namespace})
	return items, err
}
