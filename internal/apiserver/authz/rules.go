package authz

import (
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"coracle/internal/apiserver/authz/rbac"
)

// Rules says what a user may do in a namespace. A node's rights depend on the pods bound to it and cannot be listed: what
// they come to is left out, and incomplete says so.
func (a *Authorizer) Rules(u user.Info, namespace string) (status authorizationv1.SubjectRulesReviewStatus) {
	a.mu.RLock()
	rules, err := a.roles.Rules(u, namespace)
	a.mu.RUnlock()
	if Superuser(u) && !rbac.Full(rules) {
		rules = append(append([]rbacv1.PolicyRule{}, rbac.Everything...), rules...)
	}
	status.ResourceRules = []authorizationv1.ResourceRule{}
	status.NonResourceRules = []authorizationv1.NonResourceRule{}
	for _, r := range rules {
		if len(r.Resources) > 0 {
			status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames,
			})
		}
		if len(r.NonResourceURLs) > 0 {
			status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{
				Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs,
			})
		}
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	if _, ok := NodeName(u); ok {
		status.Incomplete = true
		status.EvaluationError = "what a node may do depends on the pods bound to it"
	}
	return status
}
