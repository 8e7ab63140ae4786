package kind

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/podspec"
	"coracle/internal/nodestate"
	"coracle/internal/resource"
)

var nodeFields = selectable[*corev1.Node]{
	names: []string{"spec.unschedulable"},
	fill: func(n *corev1.Node, set fields.Set) {
		set["spec.unschedulable"] = strconv.FormatBool(n.Spec.Unschedulable)
	},
}

var nodes = Kind{
	Resource: resource.Nodes, Singular: "node", ShortNames: []string{"no"},
	New:     func() runtime.Object { return &corev1.Node{} },
	NewList: func() runtime.Object { return &corev1.NodeList{} },
	Default: func(o runtime.Object) { defaultNode(o.(*corev1.Node)) },
	Strategy: newStrategy(resource.Nodes, rules[*corev1.Node]{
		// A node registers itself with its status, so creation keeps it.
		prepareUpdate:  func(n, old *corev1.Node) { n.Status = old.Status },
		validate:       validateNode,
		validateUpdate: validateNodeUpdate,
		resets:         []string{"status"},
	}),
	Status: newStrategy(resource.Nodes, rules[*corev1.Node]{
		prepareUpdate:  func(n, old *corev1.Node) { n.Spec = old.Spec },
		validateUpdate: validateNodeUpdate,
		resets:         []string{"spec"},
	}),
	Columns: newTable(nodeRow, nameColumn(),
		col("Status", "string", "Whether it is ready, and whether it takes new pods."),
		col("Roles", "string", "Roles that its labels give it."),
		ageColumn(),
		col("Version", "string", "Version of its agent."),
		wide("Internal-IP", "string", "Address within the cluster."),
		wide("External-IP", "string", "Address from without."),
		wide("OS-Image", "string", "Its operating system."),
		wide("Kernel-Version", "string", "Its kernel."),
		wide("Container-Runtime", "string", "What runs its containers.")),
	GetAttrs:         attrsOf(resource.Nodes, nodeFields),
	SelectableFields: append(metaFields(resource.Nodes), nodeFields.names...),
}

func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	amount.Round(n.Status.Capacity)
	amount.Round(n.Status.Allocatable)
	// podCIDR and the first of podCIDRs are one; the singular wins where they differ.
	switch s := &n.Spec; {
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validMeta(&n.ObjectMeta, false, validation.NameIsDNSSubdomain)
	errs = append(errs, validateTaints(n.Spec.Taints, metadataPath.Child("taints"))...)
	errs = append(errs, validateNodeResources(n)...)
	errs = append(errs, unservedOfNode(&n.Spec, &corev1.NodeSpec{})...)
	return append(errs, validatePodCIDRs(n.Spec.PodCIDRs)...)
}

// unservedOfNode refuses what no agent would act on.
func unservedOfNode(s, old *corev1.NodeSpec) (errs field.ErrorList) {
	if s.ConfigSource != nil && old.ConfigSource == nil { //nolint:staticcheck // what is refused has to be named
		errs = append(errs, field.Forbidden(specPath.Child("configSource"), "agents take no configuration from the API: Kubernetes removed this in v1.24"))
	}
	if s.PodPreemptionPolicy != nil && old.PodPreemptionPolicy == nil {
		errs = append(errs, field.Forbidden(specPath.Child("podPreemptionPolicy"), "is alpha in Kubernetes v1.37, and nothing here acts on it: leave it out"))
	}
	return errs
}

func validatePodCIDRs(cidrs []string) field.ErrorList {
	at := specPath.Child("podCIDRs")
	var errs field.ErrorList
	for i, cidr := range cidrs {
		errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(at.Index(i), cidr, false, nil)...)
		if slices.Contains(cidrs[:i], cidr) {
			errs = append(errs, field.Duplicate(at.Index(i), cidr))
		}
	}
	if len(cidrs) > 1 {
		if dual, err := netutils.IsDualStackCIDRStrings(cidrs); err == nil && (!dual || len(cidrs) > 2) {
			errs = append(errs, field.Invalid(at, cidrs, "may specify no more than one CIDR for each IP family"))
		}
	}
	return errs
}

// validateTaints reports against metadata, as upstream does.
func validateTaints(taints []corev1.Taint, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range taints {
		at := at.Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		if bad := utilvalidation.IsValidLabelValue(t.Value); len(bad) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(bad, ";")))
		}
		errs = append(errs, podspec.ValidateTaintEffect(t.Effect, at.Child("effect"))...)
		if slices.ContainsFunc(taints[:i], func(o corev1.Taint) bool { return o.Key == t.Key && o.Effect == t.Effect }) {
			e := field.Duplicate(at, t)
			e.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, e)
		}
	}
	return errs
}

func validateNodeResources(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for name, q := range n.Status.Capacity {
		errs = append(errs, amount.ValidateQuantity(name, q, statusPath.Child("capacity", string(name)))...)
	}
	for name, q := range n.Status.Allocatable {
		errs = append(errs, amount.ValidateQuantity(name, q, statusPath.Child("allocatable", string(name)))...)
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := append(validateNodeResources(n), unservedOfNode(&n.Spec, &old.Spec)...)
	for i, address := range n.Status.Addresses {
		if slices.Contains(n.Status.Addresses[:i], address) {
			errs = append(errs, field.Duplicate(statusPath.Child("addresses").Index(i), address))
		}
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(specPath.Child("podCIDRs"), `node updates may not change podCIDR except from "" to valid`))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(specPath.Child("providerID"), `node updates may not change providerID except from "" to valid`))
	}
	errs = append(errs, validateTaints(n.Spec.Taints, metadataPath.Child("taints"))...)
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(specPath.Child("externalID"), "may not be updated"))
	}
	return errs
}

const (
	rolePrefix = "node-role.kubernetes.io/"
	roleLabel  = "kubernetes.io/role"
)

// nodeRoles lists the roles that labels give a node.
func nodeRoles(n *corev1.Node) string {
	var roles []string
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, rolePrefix); ok && role != "" {
			roles = append(roles, role)
		} else if key == roleLabel && value != "" {
			roles = append(roles, value)
		}
	}
	slices.Sort(roles)
	return orNone(strings.Join(slices.Compact(roles), ","))
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	if nodestate.Ready(n) {
		status = "Ready"
	} else if nodestate.Condition(n, corev1.NodeReady) != nil {
		status = "NotReady"
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return none
}

func nodeRow(n *corev1.Node, now time.Time) []any {
	orUnknown := func(s string) string {
		if s == "" {
			return unknown
		}
		return s
	}
	info := n.Status.NodeInfo
	return []any{n.Name, nodeStatus(n), nodeRoles(n), age(n.CreationTimestamp, now), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		orUnknown(info.OSImage), orUnknown(info.KernelVersion), orUnknown(info.ContainerRuntimeVersion)}
}
