package authz

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"coracle/internal/drain"
	"coracle/internal/peers"
	"coracle/internal/podclaim"
	"coracle/internal/reclaim"
)

// What a node may do is upstream's
// (https://kubernetes.io/docs/reference/access-authn-authz/node/, with AuthorizeNodeWithSelectors,
// KEP-4601), less what no agent here has a use for, and with five rights of its own: the volumes
// that it is to reclaim, the class that says where such a volume is kept, the namespace
// kube-system, whose UID is the cluster's identity, how far all nodes lead connections (package drain), and what network
// policies look at of all pods (package peers). What only the body of a request tells is left to admission (NodeRestriction).

const noRelation = "no relationship found between node '%s' and this object"

var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "update", "patch"}
)

// nodeRules are what each node may do to a kind as a whole: the verbs, without subresources.
var nodeRules = map[string][]string{
	"/services":                                      readVerbs, // pods' environment
	"/endpoints":                                     {"get"},
	"discovery.k8s.io/endpointslices":                readVerbs, // what stands behind a service
	"networking.k8s.io/servicecidrs":                 readVerbs, // addresses that no service has are refused
	"storage.k8s.io/storageclasses":                  {"get"},
	"node.k8s.io/runtimeclasses":                     {"get"}, // the handler of a pod's class
	"/events":                                        writeVerbs,
	"events.k8s.io/events":                           writeVerbs,
	"authentication.k8s.io/tokenreviews":             {"create"},
	"authorization.k8s.io/subjectaccessreviews":      {"create"},
	"authorization.k8s.io/localsubjectaccessreviews": {"create"},
}

// node returns "" when the agent of a node may do what attr says, or else why not.
func (a *Authorizer) node(node string, attr authorizer.Attributes) string {
	refused := fmt.Sprintf("node '%s' cannot do that", node)
	if !attr.IsResourceRequest() {
		if attr.GetVerb() == "get" && (attr.GetPath() == drain.Path || attr.GetPath() == peers.Path) {
			return ""
		}
		return refused
	}
	key := attr.GetAPIGroup() + "/" + attr.GetResource()
	if verbs, ok := nodeRules[key]; ok {
		if attr.GetSubresource() == "" && slices.Contains(verbs, attr.GetVerb()) {
			return ""
		}
		return refused
	}
	switch key {
	case "/nodes":
		return ownNode(node, attr)
	case "/pods":
		return a.pod(node, attr)
	case "/secrets", "/configmaps", "/persistentvolumeclaims":
		return a.referenced(node, attr)
	case "/serviceaccounts":
		return a.account(node, attr)
	case "/persistentvolumes":
		return a.volume(node, attr)
	case "coordination.k8s.io/leases":
		return ownLease(node, attr)
	case "/namespaces":
		if attr.GetVerb() == "get" && attr.GetSubresource() == "" && attr.GetName() == metav1.NamespaceSystem {
			return ""
		}
	}
	return refused
}

// ownNode lets a node register, read and describe itself. The name of a node being created is
// checked by admission, where it is known.
func ownNode(node string, attr authorizer.Attributes) string {
	verb, name, sub := attr.GetVerb(), attr.GetName(), attr.GetSubresource()
	switch {
	case sub != "" && sub != "status":
		return fmt.Sprintf("node '%s' cannot use the %s subresource of nodes", node, sub)
	case verb == "create" && sub == "":
		return ""
	case slices.Contains(readVerbs, verb) && sub == "":
		switch name {
		case node:
			return ""
		case "":
			return fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
		}
		return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, name)
	case verb != "update" && verb != "patch":
		return fmt.Sprintf("node '%s' cannot %s nodes", node, verb)
	case name != node:
		return fmt.Sprintf("node '%s' is not allowed to modify node '%s'", node, name)
	}
	return ""
}

func ownLease(node string, attr authorizer.Attributes) string {
	switch verb := attr.GetVerb(); {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, verb) || attr.GetSubresource() != "":
		return "can only get, create, update, patch, or delete a node lease"
	case attr.GetNamespace() != corev1.NamespaceNodeLease:
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case verb != "create" && attr.GetName() != node: // NodeRestriction checks the name of one being made
		return "can only access node lease with the same name as the requesting node"
	}
	return ""
}

// pod lets a node follow the pods bound to it, report on them, evict and delete them, and make
// mirror pods, which admission holds to their form.
func (a *Authorizer) pod(node string, attr authorizer.Attributes) string {
	switch verb, sub := attr.GetVerb(), attr.GetSubresource(); {
	case (verb == "list" || verb == "watch") && sub == "":
		if selectsNode(attr, node) || attr.GetName() != "" && a.bound(node, attr.GetNamespace(), attr.GetName()) {
			return ""
		}
		return "can only list/watch pods with spec.nodeName field selector"
	case verb == "create" && sub == "":
		return ""
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
	return err == nil && slices.ContainsFunc(requirements, func(r fieldRequirement) bool {
		return r.Field == "spec.nodeName" && r.Value == node && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals)
	})
}

// referenced lets a node read, one by one, the secrets, configmaps and claims that its pods use,
// and the claims whose volumes it is to reclaim.
func (a *Authorizer) referenced(node string, attr authorizer.Attributes) string {
	switch {
	case !slices.Contains(readVerbs, attr.GetVerb()):
		return fmt.Sprintf("node '%s' can only read %s", node, attr.GetResource())
	case attr.GetSubresource() != "":
		return "cannot read subresource"
	case attr.GetNamespace() == "":
		return "can only read namespaced object of this type"
	case attr.GetName() == "":
		return "No Object name found"
	}
	var related bool
	switch attr.GetResource() {
	case "secrets":
		related = a.used(node, attr.GetNamespace(), attr.GetName(), usesSecret)
	case "configmaps":
		related = a.used(node, attr.GetNamespace(), attr.GetName(), usesConfigMap)
	default:
		related = a.used(node, attr.GetNamespace(), attr.GetName(), podclaim.Uses) || a.released(node, attr.GetNamespace(), attr.GetName())
	}
	if related {
		return ""
	}
	return fmt.Sprintf(noRelation, node)
}

// account lets a node ask for tokens of, and read, the accounts its pods run as. For which pod a
// token is, for whom and for how long is admission's to check.
func (a *Authorizer) account(node string, attr authorizer.Attributes) string {
	verb, sub := attr.GetVerb(), attr.GetSubresource()
	switch {
	case attr.GetName() == "" || !(verb == "create" && sub == "token" || verb == "get" && sub == ""):
		return "can only create tokens for individual service accounts"
	case a.used(node, attr.GetNamespace(), attr.GetName(), runsAs):
		return ""
	}
	return fmt.Sprintf(noRelation, node)
}

// volume lets a node read the volumes of its pods' claims and those it is to reclaim, follow the
// latter, and say that their data are gone; that it says no more is admission's to check.
func (a *Authorizer) volume(node string, attr authorizer.Attributes) string {
	if attr.GetSubresource() != "" {
		return fmt.Sprintf("node '%s' cannot use the subresources of persistentvolumes", node)
	}
	switch verb := attr.GetVerb(); verb {
	case "list", "watch":
		if selectsReclaimed(attr, node) {
			return ""
		}
		return fmt.Sprintf("can only list/watch persistentvolumes with the label selector %s", reclaim.Selector(node))
	case "get", "update", "patch":
		pv := a.cluster.Volume(attr.GetName())
		if pv != nil && (reclaim.Assigned(pv) == node || verb == "get" && a.usesVolume(node, pv)) {
			return ""
		}
		return fmt.Sprintf(noRelation, node)
	}
	return fmt.Sprintf("node '%s' cannot %s persistentvolumes", node, attr.GetVerb())
}

func selectsReclaimed(attr authorizer.Attributes, node string) bool {
	requirements, err := attr.GetLabelSelector()
	return err == nil && slices.ContainsFunc(requirements, func(r labelRequirement) bool {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			values := r.ValuesUnsorted()
			return r.Key() == reclaim.By && len(values) == 1 && values[0] == node
		}
		return false
	})
}
