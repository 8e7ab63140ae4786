package fairness

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// all is the word for everything in every list of a rule; validation lets it stand only by itself.
const all = "*"

// matches says whether one rule of the schema has both the user and what is asked for.
func (s *schema) matches(u user.Info, info *request.RequestInfo) bool {
	for i := range s.rules {
		rule := &s.rules[i]
		if !hasSubject(rule.Subjects, u) {
			continue
		}
		if info.IsResourceRequest {
			for j := range rule.ResourceRules {
				if asksResource(&rule.ResourceRules[j], info) {
					return true
				}
			}
			continue
		}
		for j := range rule.NonResourceRules {
			if asksPath(&rule.NonResourceRules[j], info) {
				return true
			}
		}
	}
	return false
}

func hasSubject(subjects []flowcontrolv1.Subject, u user.Info) bool {
	for i := range subjects {
		if isSubject(&subjects[i], u) {
			return true
		}
	}
	return false
}

func isSubject(s *flowcontrolv1.Subject, u user.Info) bool {
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		return s.User.Name == all || s.User.Name == u.GetName()
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		return s.Group.Name == all || slices.Contains(u.GetGroups(), s.Group.Name)
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		rest, ok := strings.CutPrefix(u.GetName(), serviceaccount.ServiceAccountUsernamePrefix)
		namespace, name, ok2 := strings.Cut(rest, serviceaccount.ServiceAccountUsernameSeparator)
		return ok && ok2 && namespace == s.ServiceAccount.Namespace && (s.ServiceAccount.Name == all || s.ServiceAccount.Name == name)
	}
	return false
}

func asksResource(rule *flowcontrolv1.ResourcePolicyRule, info *request.RequestInfo) bool {
	if !has(rule.Verbs, info.Verb) || !hasResource(rule.Resources, info) || !has(rule.APIGroups, info.APIGroup) {
		return false
	}
	if info.Namespace == "" {
		return rule.ClusterScope
	}
	return has(rule.Namespaces, info.Namespace)
}

// hasResource looks for the resource, or resource/subresource, that is asked for.
func hasResource(resources []string, info *request.RequestInfo) bool {
	for _, r := range resources {
		resource, sub, _ := strings.Cut(r, "/")
		if r == all && len(resources) == 1 || resource == info.Resource && sub == info.Subresource {
			return true
		}
	}
	return false
}

// asksPath says whether a rule has a path: a path of the rule is meant with all that lies below it.
func asksPath(rule *flowcontrolv1.NonResourcePolicyRule, info *request.RequestInfo) bool {
	if !has(rule.Verbs, info.Verb) {
		return false
	}
	for _, path := range rule.NonResourceURLs {
		if path == all || path == info.Path {
			return true
		}
		if rest, ok := strings.CutPrefix(info.Path, strings.TrimRight(strings.TrimSuffix(path, all), "/")); ok && strings.HasPrefix(rest, "/") {
			return true
		}
	}
	return false
}

func has(list []string, word string) bool {
	return len(list) == 1 && list[0] == all || slices.Contains(list, word)
}
