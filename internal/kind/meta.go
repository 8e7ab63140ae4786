package kind

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The roots of field paths.
var (
	metadataPath = field.NewPath("metadata")
	specPath     = field.NewPath("spec")
	statusPath   = field.NewPath("status")
)

// categoryAll is the category behind `kubectl get all`.
var categoryAll = []string{"all"}

func validMeta(m *metav1.ObjectMeta, namespaced bool, name validation.ValidateNameFunc) field.ErrorList {
	return validation.ValidateObjectMeta(m, namespaced, name, metadataPath)
}

func validMetaUpdate(m, old *metav1.ObjectMeta) field.ErrorList {
	return validation.ValidateObjectMetaUpdate(m, old, metadataPath)
}

// warnHostname warns of a name that becomes part of a host name without being a DNS label.
func warnHostname(name, why string) []string {
	if msgs := utilvalidation.IsDNS1123Label(name); len(msgs) > 0 {
		return []string{fmt.Sprintf("metadata.name: %s: %v", why, msgs)}
	}
	return nil
}

const inPodNames = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended"
