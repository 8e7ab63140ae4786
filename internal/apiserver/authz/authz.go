// Package authz says what a user may do.
//
// It owns the decision; it refuses to know how the user was identified (package authn), and where roles and bindings are
// kept: it is told of each change before anybody can read it. In upstream's order:
//
//   - the group system:masters may do everything (in-process components do not pass here at all);
//   - a node (user system:node:NAME, group system:nodes) may do what its agent needs: of the kinds
//     that hold secrets or data it reaches what a pod bound to it uses, and of nodes, leases and
//     pods its own, as upstream's node authorizer rules;
//   - anybody may do what roles and bindings give him (package rbac). What everybody may do besides - read discovery and
//     health, ask about himself - is in such roles too, which the server makes (package policy).
package authz

import (
	"context"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"coracle/internal/apiserver/authz/rbac"
)

// NodePrefix begins the user name of every node.
const NodePrefix = "system:node:"

// NodeName returns the node that a user is, or false.
func NodeName(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), NodePrefix)
	return name, ok && name != "" && slices.Contains(u.GetGroups(), user.NodesGroup)
}

// Authorizer decides by the rules above.
type Authorizer struct {
	cluster Cluster
	mu      sync.RWMutex
	roles   *rbac.Index
}

// New returns an authorizer that looks up in c what binds objects to nodes, and knows of no role.
func New(c Cluster) *Authorizer { return &Authorizer{cluster: c, roles: rbac.New()} }

var _ authorizer.UnconditionalAuthorizer = (*Authorizer)(nil)

// Observe takes note of a change of a role or a binding; either of before and after may be nil.
func (a *Authorizer) Observe(before, after runtime.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.roles.Change(before, after)
}

// Authorize implements authorizer.UnconditionalAuthorizer.
func (a *Authorizer) Authorize(_ context.Context, attr authorizer.Attributes) (authorizer.Decision, string, error) {
	u := attr.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "no user on request", nil
	}
	if Superuser(u) {
		return authorizer.DecisionAllow, "", nil
	}
	var held string
	if node, ok := NodeName(u); ok {
		if held = a.node(node, attr); held == "" {
			return authorizer.DecisionAllow, "", nil
		}
	}
	a.mu.RLock()
	allowed, reason := a.roles.Allows(u, attr)
	a.mu.RUnlock()
	switch {
	case allowed:
		return authorizer.DecisionAllow, reason, nil
	case reason != "" && held != "":
		held += "\n"
	}
	return authorizer.DecisionNoOpinion, held + reason, nil
}

// Superuser says whether a user may do everything, whatever roles and bindings say.
func Superuser(u user.Info) bool { return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) }

// MayGrant returns an error that says what is missing unless a user has, in a namespace or everywhere when it is empty, all
// that the rules give.
func (a *Authorizer) MayGrant(u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	if Superuser(u) {
		return nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.roles.MayGrant(u, namespace, rules)
}

// RoleRules returns the rules of the role that a binding of a namespace refers to, shared, or the API's error that it is
// not there.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.roles.RoleRules(ref, namespace)
}
