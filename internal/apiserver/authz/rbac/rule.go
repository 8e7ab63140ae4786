package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// request is what rules are held against.
type request struct {
	verb, namespace                  string
	group, resource, subresource, of string
	path                             string
	resources                        bool
}

func requestOf(a authorizer.Attributes) request {
	q := request{verb: a.GetVerb(), namespace: a.GetNamespace(), resources: a.IsResourceRequest()}
	if q.resources {
		q.group, q.resource, q.subresource, q.of = a.GetAPIGroup(), a.GetResource(), a.GetSubresource(), a.GetName()
	} else {
		q.path = a.GetPath()
	}
	return q
}

// rule is a PolicyRule with what it says of everything told beforehand.
type rule struct {
	*rbacv1.PolicyRule
	anyVerb, anyGroup, anyResource bool
}

func compile(p *rbacv1.PolicyRule) rule {
	return rule{
		PolicyRule:  p,
		anyVerb:     slices.Contains(p.Verbs, rbacv1.VerbAll),
		anyGroup:    slices.Contains(p.APIGroups, rbacv1.APIGroupAll),
		anyResource: slices.Contains(p.Resources, rbacv1.ResourceAll),
	}
}

// allows says whether the rule allows a request; the role that it is of chose it by what the request is about.
func (r *rule) allows(q *request) bool {
	if !r.anyVerb && !slices.Contains(r.Verbs, q.verb) && !r.head(q) {
		return false
	}
	if !q.resources {
		return r.names(q)
	}
	return (r.anyGroup || slices.Contains(r.APIGroups, q.group)) && (r.anyResource || r.names(q)) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, q.of))
}

// names says whether one of the rule's resources or URLs is the request's. It is no closure, for which every request would
// have to lie on the heap.
func (r *rule) names(q *request) bool {
	if q.resources {
		for _, resource := range r.Resources {
			if q.isOf(resource) {
				return true
			}
		}
		return false
	}
	for _, url := range r.NonResourceURLs {
		if urlMatches(url, q.path) {
			return true
		}
	}
	return false
}

// head lets whoever may read a URL ask for no more than its headers. Upstream refuses it, and so the probes of some
// load balancers.
func (r *rule) head(q *request) bool {
	return !q.resources && q.verb == "head" && slices.Contains(r.Verbs, "get")
}

// isOf says whether a rule's resource names the request's: pods, pods/log, or */scale. A rule on pods says nothing of
// pods/log.
func (q *request) isOf(resource string) bool {
	if q.subresource == "" {
		return resource == q.resource
	}
	of, ok := strings.CutSuffix(resource, q.subresource)
	if !ok || !strings.HasSuffix(of, "/") {
		return false
	}
	of = of[:len(of)-1]
	return of == "*" || of == q.resource
}

// urlMatches says whether a rule's URL, which may end in *, names a path.
func urlMatches(url, path string) bool {
	if url == path {
		return true
	}
	beginning, open := strings.CutSuffix(url, "*")
	return open && strings.HasPrefix(path, strings.TrimRight(beginning, "*"))
}
