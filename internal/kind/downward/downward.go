// Package downward holds the validation of downward API selectors: the fields and resources of a
// pod that its own environment and volumes may name.
package downward

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// Place is where a selector is used; each place may name different fields.
type Place []string

// The places, with the fields each may name besides labels and annotations by key.
var (
	// Volume is a file of a downward API volume.
	Volume = Place{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	// Env is an environment variable.
	Env = Place{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
)

// known is every field label of a pod that upstream's conversion accepts.
var known = append(slices.Clone(Volume), "spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName",
	"status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs", "spec.host")

// ValidateField checks a field selector.
func ValidateField(s *corev1.ObjectFieldSelector, place Place, at *field.Path) field.ErrorList {
	if s.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if s.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	fail := func(format string, args ...any) field.ErrorList {
		return field.ErrorList{field.Invalid(at.Child("fieldPath"), s.FieldPath, "error converting fieldPath: "+fmt.Sprintf(format, args...))}
	}
	if s.APIVersion != "v1" {
		return fail("unsupported pod version: %s", s.APIVersion)
	}
	path, key, keyed := SplitKey(s.FieldPath)
	if !keyed {
		path = s.FieldPath
	}
	switch {
	case keyed && path != "metadata.annotations" && path != "metadata.labels":
		return fail("field label does not support subscript: %s", s.FieldPath)
	case keyed && path == "metadata.annotations":
		return check.Qualified(at, strings.ToLower(key))
	case keyed:
		return check.Qualified(at, key)
	case !slices.Contains(known, path):
		return fail("field label not supported: %s", path)
	case !slices.Contains(place, path):
		return field.ErrorList{field.NotSupported(at.Child("fieldPath"), path, place)}
	}
	return nil
}

// SplitKey splits "metadata.labels['app']" into "metadata.labels" and "app".
func SplitKey(path string) (field, key string, ok bool) {
	inner, found := strings.CutSuffix(path, "']")
	if !found {
		return "", "", false
	}
	field, key, ok = strings.Cut(inner, "['")
	return field, key, ok && field != ""
}

var (
	resources = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

// ValidateResource checks a resource selector. Volumes must name the container.
func ValidateResource(s *corev1.ResourceFieldSelector, inVolume bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	_, name, _ := strings.Cut(s.Resource, ".")
	hugepages := strings.HasPrefix(s.Resource, "limits.hugepages-") || strings.HasPrefix(s.Resource, "requests.hugepages-")
	switch {
	case inVolume && s.ContainerName == "":
		errs = append(errs, field.Required(at.Child("containerName"), ""))
	case s.Resource == "":
		errs = append(errs, field.Required(at.Child("resource"), ""))
	case !hugepages && !slices.Contains(resources, s.Resource):
		errs = append(errs, field.NotSupported(at.Child("resource"), s.Resource, resources))
	}
	if s.Divisor.IsZero() {
		return errs
	}
	allowed, noun := byteDivisors, map[string]string{"memory": "memory", "ephemeral-storage": "local ephemeral storage"}[name]
	switch {
	case name == "cpu":
		allowed, noun = []string{"1m", "1"}, "cpu"
	case hugepages:
		noun = "hugepages"
	}
	if noun == "" || slices.Contains(allowed, s.Divisor.String()) {
		return errs
	}
	list := strings.Join(allowed, ", ")
	if name == "cpu" {
		list = "1m and 1"
	}
	return append(errs, field.Invalid(at.Child("divisor"), s.Resource,
		"only divisor's values "+list+" are supported with the "+noun+" resource"))
}
