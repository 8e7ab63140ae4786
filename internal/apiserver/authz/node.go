package authz

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// The words of upstream's node authorizer for a node that reaches beyond its pods.
const noRelation = "no relationship found between node '%s' and this object"

var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "update", "patch"}
)

// nodeReads lists what every node may read whole: nothing in it is secret.
var nodeReads = map[string]bool{
	"/nodes": true, "/services": true, "/persistentvolumes": true, "/persistentvolumeclaims": true,
	"/namespaces": true, "/endpoints": true,
	"discovery.k8s.io/endpointslices": true, "storage.k8s.io/storageclasses": true,
}

// node returns "" when the agent of a node may do what attr says, or else why not.
func (a *Authorizer) node(node string, attr authorizer.Attributes) string {
	refused := fmt.Sprintf("node '%s' cannot do that", node)
	if !attr.IsResourceRequest() {
		return refused
	}
	verb, name, sub := attr.GetVerb(), attr.GetName(), attr.GetSubresource()
	key := attr.GetAPIGroup() + "/" + attr.GetResource()
	if nodeReads[key] && sub == "" && slices.Contains(readVerbs, verb) {
		return ""
	}
	switch key {
	case "/nodes":
		return ownNode(node, verb, name, sub)
	case "/pods":
		return a.pod(node, attr)
	case "/secrets", "/configmaps":
		return a.referenced(node, attr)
	case "/serviceaccounts":
		return a.account(node, attr)
	case "/events", "events.k8s.io/events":
		if slices.Contains(writeVerbs, verb) && sub == "" {
			return ""
		}
	case "/persistentvolumes":
		// The agent removes a released volume's directory, then the finalizer.
		if sub == "" && (verb == "update" || verb == "patch") {
			return ""
		}
	case "/namespaces":
		// Its UID says which cluster this is (package node/lineage).
		if verb == "get" && name == metav1.NamespaceSystem && sub == "" {
			return ""
		}
	case "coordination.k8s.io/leases":
		return ownLease(node, verb, attr.GetNamespace(), name)
	case "authentication.k8s.io/tokenreviews", "authorization.k8s.io/subjectaccessreviews":
		if verb == "create" {
			return ""
		}
	}
	return refused
}

// ownNode lets a node register and describe itself. The name of a node being created is checked
// by admission (NodeRestriction), where it is known.
func ownNode(node, verb, name, sub string) string {
	switch {
	case sub != "" && sub != "status":
		return fmt.Sprintf("node '%s' cannot use the %s subresource of nodes", node, sub)
	case verb == "create" && sub == "":
		return ""
	case !slices.Contains([]string{"update", "patch"}, verb):
		return fmt.Sprintf("node '%s' cannot %s nodes", node, verb)
	case name != node:
		return fmt.Sprintf("node '%s' is not allowed to modify node '%s'", node, name)
	}
	return ""
}

func ownLease(node, verb, namespace, name string) string {
	if namespace != corev1.NamespaceNodeLease {
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	switch verb {
	case "create":
		return "" // NodeRestriction checks the name
	case "get", "update", "patch", "delete":
		if name == node {
			return ""
		}
	}
	return "can only access node lease with the same name as the requesting node"
}

// pod lets a node follow the pods bound to it, report on them and delete them.
func (a *Authorizer) pod(node string, attr authorizer.Attributes) string {
	switch verb, sub := attr.GetVerb(), attr.GetSubresource(); {
	case (verb == "list" || verb == "watch") && sub == "":
		if selectsNode(attr, node) || attr.GetName() != "" && a.bound(node, attr.GetNamespace(), attr.GetName()) {
			return ""
		}
		return "can only list/watch pods with spec.nodeName field selector"
	case verb == "get" && sub == "",
		verb == "delete" && sub == "",
		(verb == "update" || verb == "patch") && sub == "status",
		verb == "create" && sub == "eviction":
		if a.bound(node, attr.GetNamespace(), attr.GetName()) {
			return ""
		}
		return fmt.Sprintf(noRelation, node)
	}
	return fmt.Sprintf("node '%s' cannot %s pods", node, attr.GetVerb())
}

func selectsNode(attr authorizer.Attributes, node string) bool {
	requirements, err := attr.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, r := range requirements {
		if r.Field == "spec.nodeName" && r.Value == node && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) {
			return true
		}
	}
	return false
}

func (a *Authorizer) bound(node, namespace, name string) bool {
	return slices.ContainsFunc(a.pods.OnNode(node), func(p *corev1.Pod) bool {
		return p.Namespace == namespace && p.Name == name
	})
}

// referenced lets a node read, by name, the secrets and configmaps that its pods use.
func (a *Authorizer) referenced(node string, attr authorizer.Attributes) string {
	switch {
	case !slices.Contains(readVerbs, attr.GetVerb()) || attr.GetSubresource() != "":
		return fmt.Sprintf("node '%s' can only read %s", node, attr.GetResource())
	case attr.GetName() == "":
		return "No Object name found"
	}
	uses := usesConfigMap
	if attr.GetResource() == "secrets" {
		uses = usesSecret
	}
	for _, p := range a.pods.OnNode(node) {
		if p.Namespace == attr.GetNamespace() && uses(p, attr.GetName()) {
			return ""
		}
	}
	return fmt.Sprintf(noRelation, node)
}

// account lets a node ask for tokens of, and read, the accounts its pods run as.
func (a *Authorizer) account(node string, attr authorizer.Attributes) string {
	verb, sub := attr.GetVerb(), attr.GetSubresource()
	if !(verb == "create" && sub == "token" || verb == "get" && sub == "") {
		return "can only create tokens for individual service accounts"
	}
	for _, p := range a.pods.OnNode(node) {
		if p.Namespace == attr.GetNamespace() && p.Spec.ServiceAccountName == attr.GetName() {
			return ""
		}
	}
	return fmt.Sprintf(noRelation, node)
}
