package apiserver

import (
	"context"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/authz/policy"
	"coracle/internal/apiserver/registry"
	"coracle/internal/client"
	"coracle/internal/resource"
)

// keepPolicy makes the roles and bindings that every cluster has, and adds to those that are there what they lack. On all
// starts but the first there is nothing to write. What must be written goes side by side, so that it shares commits. A
// failure is told and not fatal: a cluster whose disk is full starts too.
func (s *Server) keepPolicy(ctx context.Context) {
	var writes sync.WaitGroup
	keep := func(want client.Object) {
		stored, ok := s.set.Get(resource.Of(want), want.GetNamespace(), want.GetName())
		change, next := policy.None, client.Object(nil)
		if ok {
			found, obj, err := policy.Reconcile(stored, want)
			if err != nil {
				s.log.Error("bootstrap policy", "object", want.GetName(), "error", err)
			}
			if change = found; change == policy.None {
				return
			}
			next, _ = obj.(client.Object)
		}
		writes.Go(func() {
			if err := s.writePolicy(ctx, change, want, next); err != nil {
				s.log.Error("a bootstrap role or binding is not as it should be; the next start tries again",
					"kind", resource.Of(want).String(), "namespace", want.GetNamespace(), "name", want.GetName(), "error", err)
			}
		})
	}
	for _, want := range policy.ClusterRoles() {
		keep(want)
	}
	for _, want := range policy.ClusterRoleBindings() {
		keep(want)
	}
	for _, want := range policy.Roles() {
		keep(want)
	}
	for _, want := range policy.RoleBindings() {
		keep(want)
	}
	writes.Wait()
}

func (s *Server) writePolicy(ctx context.Context, change policy.Change, want, next client.Object) error {
	if change == policy.None {
		return s.ensure(ctx, want)
	}
	res := resource.Of(want)
	o := s.set.All[res]
	inside := registry.Inside(ctx, want.GetNamespace())
	if change == policy.Update {
		_, _, err := o.Store.Update(inside, next.GetName(), rest.DefaultUpdatedObjectInfo(next), nil,
			rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update: %w", err)
		}
		return nil
	}
	_, _, err := o.Store.Delete(inside, want.GetName(), rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete, to make it anew: %w", err)
	}
	return s.ensure(ctx, want)
}
