package amount

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"coracle/internal/kind/check"
)

// names returns the names of a list in a stable order, so that errors are.
func names(list corev1.ResourceList) []corev1.ResourceName {
	if len(list) == 0 {
		return nil
	}
	out := slices.AppendSeq(make([]corev1.ResourceName, 0, len(list)), maps.Keys(list))
	slices.Sort(out)
	return out
}

// ValidateContainer checks the resources of the container at a path. claims are the names of the
// pod's resource claims.
func ValidateContainer(r *corev1.ResourceRequirements, claims []string, at *field.Path) field.ErrorList {
	if len(r.Limits) == 0 && len(r.Requests) == 0 && len(r.Claims) == 0 {
		return nil
	}
	return validateRequirements(r, containerName, claims, at.Child("resources"))
}

// ValidateOverhead checks what running a pod costs beside its containers.
func ValidateOverhead(list corev1.ResourceList, at *field.Path) field.ErrorList {
	return validateRequirements(&corev1.ResourceRequirements{Limits: list}, containerName, nil, at)
}

// ValidatePod checks the resources of a pod as a whole.
func ValidatePod(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	return validateRequirements(r, podName, nil, at)
}

func podName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	if errs := ValidateName(name, at); len(errs) > 0 {
		return errs
	}
	if resourcehelper.IsSupportedPodLevelResource(name) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, name, sets.List(resourcehelper.SupportedPodLevelResources()))}
}

func validateRequirements(r *corev1.ResourceRequirements, validName func(corev1.ResourceName, *field.Path) field.ErrorList,
	claims []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	compute, huge := false, false
	limits, requests := at.Child("limits"), at.Child("requests")
	one := func(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
		errs = append(errs, validName(name, at)...)
		errs = append(errs, ValidateQuantity(name, q, at)...)
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		if HugePages(name) {
			huge = true
			if !wholePages(name, q) {
				errs = append(errs, field.Invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name)))
			}
		}
	}
	for _, name := range names(r.Limits) {
		one(name, r.Limits[name], limits.Key(string(name)))
	}
	for _, name := range names(r.Requests) {
		request := r.Requests[name]
		one(name, request, requests.Key(string(name)))
		limit, limited := r.Limits[name]
		switch {
		case !limited && !Overcommits(name):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		case !limited:
		case !Overcommits(name) && request.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
	if huge && !compute {
		errs = append(errs, field.Forbidden(at, "HugePages require cpu or memory"))
	}
	return append(errs, validateClaims(r.Claims, claims, at.Child("claims"))...)
}

func wholePages(name corev1.ResourceName, q resource.Quantity) bool {
	page, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || page.Value() == 0 || page.MilliValue()%1000 != 0 {
		return false
	}
	return q.Value()%page.Value() == 0
}

// validateClaims checks the resource claims a container uses against those of its pod.
func validateClaims(used []corev1.ResourceClaim, declared []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	whole, parts := map[string]bool{}, map[string]bool{}
	for i, c := range used {
		at := at.Index(i)
		if c.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		key := c.Name
		if c.Request != "" {
			key += "/" + c.Request
			errs = append(errs, check.Label(at.Child("request"), c.Request)...)
		}
		switch {
		case whole[c.Name] || c.Request == "" && parts[c.Name]:
			errs = append(errs, field.Duplicate(at, c.Name))
		case parts[key]:
			errs = append(errs, field.Duplicate(at, key))
		}
		if c.Request == "" {
			whole[c.Name] = true
		} else {
			parts[c.Name], parts[key] = true, true
		}
		if !slices.Contains(declared, c.Name) {
			e := field.NotFound(at, c.Name)
			e.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
			if len(declared) > 0 {
				e.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(slices.Sorted(slices.Values(declared)), ", ")
			}
			errs = append(errs, e)
		}
	}
	return errs
}

// ValidateQuota checks the amounts of a quota.
func ValidateQuota(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range names(list) {
		at := at.Key(string(name))
		bad := ValidateName(name, at)
		if len(bad) == 0 && !strings.Contains(string(name), "/") && !quotaResource(name) {
			bad = append(bad, field.Invalid(at, name, "must be a standard resource for quota"))
		}
		errs = append(errs, bad...)
		errs = append(errs, ValidateQuantity(name, list[name], at)...)
	}
	return errs
}

// ValidateLimitName checks a resource that a limit of a type bounds.
func ValidateLimitName(t corev1.LimitType, name corev1.ResourceName, at *field.Path) field.ErrorList {
	if t == corev1.LimitTypePod || t == corev1.LimitTypeContainer {
		return containerName(name, at)
	}
	return ValidateName(name, at)
}
