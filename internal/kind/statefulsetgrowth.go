package kind

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// onlyGrown says whether claim templates differ from the old ones in nothing but larger storage
// requests. Kubernetes forbids that edit; here it is how the claims of a StatefulSet are grown.
func onlyGrown(templates, old []corev1.PersistentVolumeClaim) bool {
	if len(templates) != len(old) {
		return false
	}
	for i := range templates {
		was := old[i].Spec.Resources.Requests[corev1.ResourceStorage]
		is := templates[i].Spec.Resources.Requests[corev1.ResourceStorage]
		if is.Cmp(was) < 0 {
			return false
		}
		same := *templates[i].DeepCopy()
		if same.Spec.Resources.Requests != nil {
			same.Spec.Resources.Requests[corev1.ResourceStorage] = was
		}
		if !equality.Semantic.DeepEqual(same, old[i]) {
			return false
		}
	}
	return true
}
