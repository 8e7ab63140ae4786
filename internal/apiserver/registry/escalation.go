package registry

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/authz"
	"coracle/internal/apiserver/authz/rbac"
	"coracle/internal/resource"
)

// roleKinds are what the authorizer decides by.
var roleKinds = []resource.Resource{resource.Roles, resource.ClusterRoles, resource.RoleBindings, resource.ClusterRoleBindings}

// granting holds writers of roles and bindings to giving no more than they have, by every way to write them
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping). It is
// asked with the object as it is about to be stored.
type granting struct {
	authz *authz.Authorizer
	res   resource.Resource
}

// grantingOf returns the check for a kind, nil for kinds that give nothing.
func grantingOf(a *authz.Authorizer, res resource.Resource) *granting {
	for _, kind := range roleKinds {
		if kind == res {
			return &granting{a, res}
		}
	}
	return nil
}

// check refuses to store obj, in the place of old where that is not nil, unless the writer may give what it gives.
func (g *granting) check(ctx context.Context, obj, old runtime.Object) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewForbidden(g.res.GroupResource(), nameOf(obj), errors.New("no user on context"))
	}
	if authz.Superuser(u) || old != nil && onlyCollected(obj, old) {
		return nil // the garbage collector's marks give nothing
	}
	namespace := request.NamespaceValue(ctx)
	switch o := obj.(type) {
	case *rbacv1.Role:
		before, _ := old.(*rbacv1.Role)
		if before != nil && equality.Semantic.DeepEqual(before.Rules, o.Rules) || g.escalates(ctx, u) {
			return nil
		}
		return g.refuse(o.Name, g.authz.MayGrant(u, namespace, o.Rules))
	case *rbacv1.ClusterRole:
		before, _ := old.(*rbacv1.ClusterRole)
		return g.checkClusterRole(ctx, u, o, before)
	case *rbacv1.RoleBinding:
		return g.checkBinding(ctx, u, o.Name, o.RoleRef, namespace)
	case *rbacv1.ClusterRoleBinding:
		return g.checkBinding(ctx, u, o.Name, o.RoleRef, "")
	}
	return apierrors.NewInternalError(fmt.Errorf("%T gives nothing", obj))
}

func nameOf(obj runtime.Object) string {
	if m, ok := obj.(metav1.Object); ok {
		return m.GetName()
	}
	return ""
}

func (g *granting) refuse(name string, why error) error {
	if why == nil {
		return nil
	}
	return apierrors.NewForbidden(g.res.GroupResource(), name, why)
}

// checkClusterRole also asks for everything of whoever makes a role gather the rules of others, or changes how it does.
func (g *granting) checkClusterRole(ctx context.Context, u user.Info, role, old *rbacv1.ClusterRole) error {
	if old != nil && equality.Semantic.DeepEqual(old.Rules, role.Rules) && equality.Semantic.DeepEqual(old.AggregationRule, role.AggregationRule) {
		return nil
	}
	if g.escalates(ctx, u) {
		return nil
	}
	if err := g.authz.MayGrant(u, "", role.Rules); err != nil {
		return g.refuse(role.Name, err)
	}
	if (gathers(role) || old != nil && gathers(old)) && g.authz.MayGrant(u, "", rbac.Everything) != nil {
		return g.refuse(role.Name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func gathers(r *rbacv1.ClusterRole) bool {
	return r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

// checkBinding lets a writer give a role that he may bind, or all of whose rights he has.
func (g *granting) checkBinding(ctx context.Context, u user.Info, name string, ref rbacv1.RoleRef, namespace string) error {
	var plural string
	switch {
	case ref.Kind == "ClusterRole":
		plural = resource.ClusterRoles.Plural
	case ref.Kind == "Role" && namespace != "":
		plural = resource.Roles.Plural
	default:
		return nil // there is no such role to give: validation says so
	}
	if g.may(ctx, &authorizer.AttributesRecord{
		User: u, Verb: "bind", APIGroup: ref.APIGroup, Resource: plural, Name: ref.Name, Namespace: namespace, ResourceRequest: true,
	}) {
		return nil
	}
	rules, err := g.authz.RoleRules(ref, namespace)
	if err != nil {
		return err
	}
	return g.refuse(name, g.authz.MayGrant(u, namespace, rules))
}

// escalates says whether the writer may give in this role what he does not have.
func (g *granting) escalates(ctx context.Context, u user.Info) bool {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok {
		info = &request.RequestInfo{Namespace: request.NamespaceValue(ctx)} // in process
	}
	return g.may(ctx, &authorizer.AttributesRecord{
		User: u, Verb: "escalate", APIGroup: g.res.Group, APIVersion: "*", Resource: g.res.Plural,
		Name: info.Name, Namespace: info.Namespace, ResourceRequest: true,
	})
}

func (g *granting) may(ctx context.Context, a authorizer.Attributes) bool {
	decision, _, err := g.authz.Authorize(ctx, a)
	return err == nil && decision == authorizer.DecisionAllow
}

// onlyCollected says whether an update changes no more than what the garbage collector must write to be rid of an object.
func onlyCollected(obj, old runtime.Object) bool {
	next, ok := obj.DeepCopyObject().(metav1.Object)
	before, okOld := old.(metav1.Object)
	if !ok || !okOld {
		return false
	}
	next.SetOwnerReferences(before.GetOwnerReferences())
	next.SetFinalizers(before.GetFinalizers())
	next.SetManagedFields(before.GetManagedFields())
	next.SetResourceVersion(before.GetResourceVersion())
	return equality.Semantic.DeepEqual(next, before)
}

// granted is an update of what gives rights, checked once it is known what it comes to.
type granted struct {
	rest.UpdatedObjectInfo
	check *granting
}

// UpdatedObject implements rest.UpdatedObjectInfo.
func (g granted) UpdatedObject(ctx context.Context, live runtime.Object) (runtime.Object, error) {
	next, err := g.UpdatedObjectInfo.UpdatedObject(ctx, live)
	if err != nil {
		return nil, err
	}
	if m, ok := live.(metav1.Object); ok && m.GetUID() == "" && m.GetResourceVersion() == "" {
		live = nil // an update that creates
	}
	return next, g.check.check(ctx, next, live)
}
