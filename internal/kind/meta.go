package kind

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// The roots of field paths.
var (
	metadataPath = field.NewPath("metadata")
	specPath     = field.NewPath("spec")
	statusPath   = field.NewPath("status")
)

// clock is the time of a write or of a print; tests stop it.
var clock = time.Now

// categoryAll is the category behind `kubectl get all`.
var categoryAll = []string{"all"}

// validMeta checks the metadata of an object on creation. What an update may change in it, the
// registry itself checks for every kind (rest.BeforeUpdate).
func validMeta(m *metav1.ObjectMeta, namespaced bool, name validation.ValidateNameFunc) field.ErrorList {
	return validation.ValidateObjectMeta(m, namespaced, name, metadataPath)
}

// standardFinalizer says whether a finalizer is qualified by a domain or one of Kubernetes' own.
func standardFinalizer(name string) bool {
	switch name {
	case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		return true
	}
	return strings.Contains(name, "/")
}

// validFinalizers checks the finalizers of an object beyond the form that metadata demands.
func validFinalizers(names []string) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		if !standardFinalizer(name) {
			errs = append(errs, field.Invalid(metadataPath.Child("finalizers").Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// warnHostname warns of a name that becomes part of a host name without being a DNS label.
func warnHostname(name, why string) []string {
	if check.IsLabel(name) {
		return nil
	}
	if msgs := utilvalidation.IsDNS1123Label(name); len(msgs) > 0 {
		return []string{fmt.Sprintf("metadata.name: %s: %v", why, msgs)}
	}
	return nil
}

const inPodNames = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended"
