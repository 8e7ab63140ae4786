package loop

import (
	"context"
	"fmt"
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/plan"
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
// wait for a picture that shows it. It returns nil when there is none.
func Live(ctx context.Context, c client.Interface, ref plan.Ref) plan.Object {
	if ref.Name == "" {
		return nil
	}
	o, err := c.Get(ctx, ref.Resource, ref.Namespace, ref.Name)
	if err != nil {
		return nil
	}
	return o
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
	if ref := a.Provided; ref != nil {
		o, err := c.Get(ctx, ref.Resource, ref.Namespace, ref.Name)
		switch {
		case apierrors.IsNotFound(err):
			return Result{}
		case err != nil:
			return Result{Err: err}
		case o.GetUID() != ref.UID || o.GetDeletionTimestamp() != nil:
			return Result{}
		}
	}
	if alive, err := anyAlive(ctx, c, a.IfAbsent); alive || err != nil {
		return Result{Err: err}
	}
	if some, err := anyContent(ctx, c, a.IfEmpty); some || err != nil {
		return Result{Err: err}
	}
	o, err := c.Update(ctx, a.Object, a.Subresource)
	return Result{o, err}
}

// anyContent asks the cluster whether there is any of the content.
func anyContent(ctx context.Context, c client.Interface, content *plan.Content) (bool, error) {
	if content == nil {
		return false, nil
	}
	for _, res := range content.Kinds {
		items, _, err := c.List(ctx, res, client.ListOptions{Namespace: content.Namespace})
		if err != nil {
			return false, err
		}
		if content.Match == nil && len(items) > 0 || content.Match != nil && slices.ContainsFunc(items, content.Match) {
			return true, nil
		}
	}
	return false, nil
}

// anyAlive asks the cluster whether one of the objects exists.
func anyAlive(ctx context.Context, c client.Interface, refs []plan.Ref) (bool, error) {
	for _, ref := range refs {
		o, err := c.Get(ctx, ref.Resource, ref.Namespace, ref.Name)
		switch {
		case err == nil && (ref.UID == "" || o.GetUID() == ref.UID):
			return true, nil
		case err != nil && !apierrors.IsNotFound(err):
			return false, err
		}
	}
	return false, nil
}

func remove(ctx context.Context, c client.Interface, a plan.Delete) Result {
	if alive, err := anyAlive(ctx, c, a.IfAbsent); alive || err != nil {
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
