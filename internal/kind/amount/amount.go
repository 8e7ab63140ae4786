// Package amount holds the rules of resource lists: which resources a container, a pod, a quota
// may name, in what unit they may be given, and how requests and limits relate.
//
// It owns corev1.ResourceList; it refuses scheduling arithmetic.
package amount

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"coracle/internal/kind/check"
)

// Round rounds quantities up to a thousandth, the finest that the API keeps.
func Round(list corev1.ResourceList) {
	for name, q := range list {
		if q.RoundUp(resource.Milli) {
			continue
		}
		list[name] = q
	}
}

// Requests sums what the containers of a pod request: the scheduler's sum of containers and
// sidecars, or the largest init container.
func Requests(s *corev1.PodSpec) corev1.ResourceList {
	return resourcehelper.AggregateContainerRequests(&corev1.Pod{Spec: *s}, resourcehelper.PodResourcesOptions{})
}

// PodLevel says whether a pod as a whole may request the resource (KEP-2837).
func PodLevel(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || HugePages(name)
}

// HugePages says whether the resource is a size of huge pages.
func HugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// Native says whether the resource belongs to Kubernetes itself.
func Native(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// Extended says whether the resource is one that a device plugin or an administrator adds.
func Extended(name corev1.ResourceName) bool {
	if Native(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(utilvalidation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// Overcommits says whether limits of the resource may exceed requests.
func Overcommits(name corev1.ResourceName) bool { return Native(name) && !HugePages(name) }

// Whole says whether the resource comes in whole units.
func Whole(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceQuotas,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return Extended(name)
}

// ValidateName checks the form of a resource name.
func ValidateName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := check.Qualified(at, string(name))
	if len(errs) == 0 && !strings.Contains(string(name), "/") && !standard(name) {
		errs = append(errs, field.Invalid(at, name, "must be a standard resource type or fully qualified"))
	}
	return errs
}

// ValidateQuantity checks a quantity of a resource: not negative, and whole where units are.
func ValidateQuantity(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	errs := check.NonNegativeQuantity(at, q)
	if Whole(name) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

func containerResource(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || HugePages(name)
}

func standard(name corev1.ResourceName) bool { return containerResource(name) || quotaResource(name) }

func quotaResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return HugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// containerName checks a resource that containers may ask for. A name of no standard resource is
// told so twice, as upstream tells it.
func containerName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := ValidateName(name, at)
	switch {
	case !strings.Contains(string(name), "/"):
		if !containerResource(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for containers"))
		}
	case !Native(name) && !Extended(name):
		errs = append(errs, field.Invalid(at, name, "doesn't follow extended resource name standard"))
	}
	return errs
}
