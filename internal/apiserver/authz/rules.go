package authz

import (
	"maps"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Rules says what a user may do, as far as it can be said without naming objects. A node's rights
// depend on the pods bound to it: they are left out, and incomplete says so.
func Rules(u user.Info) (status authorizationv1.SubjectRulesReviewStatus) {
	status.ResourceRules = []authorizationv1.ResourceRule{}
	status.NonResourceRules = []authorizationv1.NonResourceRule{}
	paths := func(verbs []string, urls ...string) {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: verbs, NonResourceURLs: urls})
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		all := []string{"*"}
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{Verbs: all, APIGroups: all, Resources: all})
		paths(all, "*")
		return status
	}
	paths([]string{"get"}, "/healthz", "/livez", "/readyz", "/version")
	if !slices.Contains(u.GetGroups(), user.AllAuthenticated) {
		return status
	}
	paths([]string{"get"}, "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*")
	for _, group := range slices.Sorted(maps.Keys(selfReviews)) {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: []string{"create"}, APIGroups: []string{group}, Resources: selfReviews[group],
		})
	}
	if _, ok := NodeName(u); ok {
		status.Incomplete = true
		status.EvaluationError = "what a node may do depends on the pods bound to it"
	}
	return status
}

// selfReviews are the questions that anybody may ask about himself, by group.
var selfReviews = map[string][]string{
	"authorization.k8s.io":  {"selfsubjectaccessreviews", "selfsubjectrulesreviews"},
	"authentication.k8s.io": {"selfsubjectreviews"},
}
