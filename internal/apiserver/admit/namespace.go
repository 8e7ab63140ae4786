package admit

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/resource"
)

// namespaceLifecycle refuses content for namespaces that are missing or going, and keeps the
// cluster's own namespaces.
var namespaceLifecycle = plugin{
	name:       "NamespaceLifecycle",
	operations: []admission.Operation{admission.Create, admission.Update, admission.Delete},
	mutate:     admitNamespace,
}

var immortal = map[string]bool{
	metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true,
}

func admitNamespace(ctx context.Context, a admission.Attributes, c Cluster) error {
	isNamespace := a.GetKind().GroupKind() == resource.Namespaces.GVK().GroupKind()
	if a.GetOperation() == admission.Delete {
		if isNamespace && immortal[a.GetName()] {
			return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), fmt.Errorf("this namespace may not be deleted"))
		}
		return nil
	}
	if a.GetNamespace() == "" || isNamespace || a.GetResource().Group == "authorization.k8s.io" {
		return nil
	}
	obj, ok := c.Get(resource.Namespaces, "", a.GetNamespace())
	if !ok {
		return apierrors.NewNotFound(resource.Namespaces.GroupResource(), a.GetNamespace())
	}
	ns := obj.(*corev1.Namespace)
	if a.GetOperation() != admission.Create || ns.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	return closed(ns.Name, func(cause error) error { return admission.NewForbidden(a, cause) })
}

// IntoNamespace is the same refusal at the moment of the write, for what was let in before its namespace was
// deleted; ns is nil when it is gone.
func IntoNamespace(ns *corev1.Namespace, res schema.GroupResource, namespace, name string) error {
	switch {
	case ns == nil:
		return apierrors.NewNotFound(resource.Namespaces.GroupResource(), namespace)
	case ns.Status.Phase == corev1.NamespaceTerminating:
		return closed(namespace, func(cause error) error { return apierrors.NewForbidden(res, name, cause) })
	}
	return nil
}

// closed refuses new content in upstream's words.
func closed(namespace string, forbid func(error) error) error {
	err := forbid(fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	if status, ok := err.(apierrors.APIStatus); ok {
		if details := status.Status().Details; details != nil {
			details.Causes = append(details.Causes, metav1.StatusCause{
				Type:    corev1.NamespaceTerminatingCause,
				Message: fmt.Sprintf("namespace %s is being terminated", namespace),
				Field:   "metadata.namespace",
			})
		}
	}
	return err
}
