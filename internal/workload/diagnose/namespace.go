package diagnose

import (
	"fmt"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Ending says whether a namespace is terminating: the API then refuses everything new in it, so that
// a planner does better not to try.
func Ending(r object.Reader, namespace string) (plan.Wait, bool) {
	o, ok := r.Get(resource.Namespaces, "", namespace)
	if !ok || o.GetDeletionTimestamp() == nil {
		return plan.Wait{}, false
	}
	return plan.Wait{
		Reason:  "NamespaceTerminating",
		Message: fmt.Sprintf("namespace %s is terminating: nothing is made in it any more", namespace),
		On:      object.RefOf(o),
		Since:   o.GetDeletionTimestamp().Time,
	}, true
}
