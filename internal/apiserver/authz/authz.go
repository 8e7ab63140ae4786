// Package authz says what a user may do.
//
// It owns the decision; it refuses to know how the user was identified (package authn). There are
// no RBAC kinds yet, so the rules are fixed:
//
//   - the group system:masters may do everything (in-process components do not pass here at all);
//   - a node (user system:node:NAME, group system:nodes) may do what its agent needs: of the kinds
//     that hold secrets or data it reaches what a pod bound to it uses, and of nodes, leases and
//     pods its own, as upstream's node authorizer rules;
//   - the group system:monitoring may read /metrics;
//   - whoever is authenticated, service accounts included, may read discovery, OpenAPI, health
//     and version, and ask about himself (SelfSubjectReview, SelfSubjectAccessReview,
//     SelfSubjectRulesReview);
//   - nobody else may do anything but read health and version.
package authz

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// NodePrefix begins the user name of every node.
const NodePrefix = "system:node:"

// NodeName returns the node that a user is, or false.
func NodeName(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), NodePrefix)
	return name, ok && name != "" && slices.Contains(u.GetGroups(), user.NodesGroup)
}

// Authorizer decides by the fixed rules above.
type Authorizer struct {
	cluster Cluster
}

// New returns an authorizer that looks up in c what binds objects to nodes.
func New(c Cluster) *Authorizer { return &Authorizer{c} }

var _ authorizer.UnconditionalAuthorizer = (*Authorizer)(nil)

// Authorize implements authorizer.UnconditionalAuthorizer.
func (a *Authorizer) Authorize(_ context.Context, attr authorizer.Attributes) (authorizer.Decision, string, error) {
	u := attr.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "no user on request", nil
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return authorizer.DecisionAllow, "", nil
	}
	if everyone(attr) {
		return authorizer.DecisionAllow, "", nil
	}
	if !slices.Contains(u.GetGroups(), user.AllAuthenticated) {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if slices.Contains(u.GetGroups(), user.MonitoringGroup) && metrics(attr) {
		return authorizer.DecisionAllow, "", nil
	}
	if discovery(attr) || self(attr) {
		return authorizer.DecisionAllow, "", nil
	}
	if node, ok := NodeName(u); ok {
		if reason := a.node(node, attr); reason != "" {
			return authorizer.DecisionNoOpinion, reason, nil
		}
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// everyone holds for what needs no credentials (upstream's role system:public-info-viewer).
func everyone(attr authorizer.Attributes) bool {
	if attr.IsResourceRequest() || attr.GetVerb() != "get" && attr.GetVerb() != "head" {
		return false
	}
	switch strings.TrimSuffix(attr.GetPath(), "/") {
	case "/healthz", "/livez", "/readyz", "/version":
		return true
	}
	return false
}

// discovery holds for reading what the server serves (upstream's role system:discovery).
func discovery(attr authorizer.Attributes) bool {
	if attr.IsResourceRequest() || attr.GetVerb() != "get" && attr.GetVerb() != "head" {
		return false
	}
	for _, root := range []string{"/api", "/apis", "/openapi"} {
		if path := attr.GetPath(); path == root || strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	return false
}

// metrics holds for reading what the server counts (upstream's role system:monitoring).
func metrics(attr authorizer.Attributes) bool {
	return !attr.IsResourceRequest() && attr.GetVerb() == "get" && attr.GetPath() == "/metrics"
}

// self holds for questions about the asker (upstream's role system:basic-user).
func self(attr authorizer.Attributes) bool {
	if !attr.IsResourceRequest() || attr.GetVerb() != "create" {
		return false
	}
	return slices.Contains(selfReviews[attr.GetAPIGroup()], attr.GetResource())
}
