package simnode

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/podclaim"
	"coracle/internal/resource"
)

// Claims are the keys of the claims that a pod uses, those of its ephemeral volumes included.
func Claims(pod *corev1.Pod) (keys []object.Key) {
	for _, name := range podclaim.All(pod) {
		keys = append(keys, object.Key{Namespace: pod.Namespace, Name: name})
	}
	return keys
}

// Unmounted says, in the words of a real node, which claim of a pod that has not begun cannot be mounted; "" when all can.
func Unmounted(r object.Reader, pod *corev1.Pod) string {
	for _, key := range Claims(pod) {
		o, ok := r.Get(resource.PersistentVolumeClaims, key.Namespace, key.Name)
		claim, _ := o.(*corev1.PersistentVolumeClaim)
		var why string
		switch {
		case !ok || claim == nil:
			why = fmt.Sprintf("failed to fetch PVC from API server: persistentvolumeclaims %q not found", key.Name)
		case claim.DeletionTimestamp != nil:
			why = "PVC is being deleted"
		case claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound:
			why = "PVC is not bound"
		default:
			continue
		}
		return fmt.Sprintf("error processing PVC %s: %s", key, why)
	}
	return ""
}
