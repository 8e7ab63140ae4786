package admit

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/resource"
)

// defaultTokenSeconds is the life of a token for which none is asked, in seconds.
const defaultTokenSeconds = 60 * 60

// admitNodesToken lets a node have a token only for a pod bound to it, for a reader that one of
// the pod's volumes names (ServiceAccountNodeAudienceRestriction, KEP-4935), and for no longer
// than that volume asks. The last is not upstream's: there a node chooses the life of its tokens.
func admitNodesToken(node string, a admission.Attributes, c Cluster) error {
	if a.GetSubresource() != "token" {
		return forbid(a, "node %q may only request tokens of service accounts", node)
	}
	request, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return unexpected(a, a.GetObject())
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != resource.Pods.Kind || ref.Name == "" {
		return forbid(a, "node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return forbid(a, "node requested token with a pod binding without a uid")
	}
	obj, found := c.Get(resource.Pods, a.GetNamespace(), ref.Name)
	pod, ok := obj.(*corev1.Pod)
	switch {
	case !found || !ok:
		return apierrors.NewNotFound(resource.Pods.GroupResource(), ref.Name)
	case ref.UID != pod.UID:
		return forbid(a, "the UID in the bound object reference (%s) does not match the UID in record. "+
			"The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != node:
		return forbid(a, "node requested token bound to a pod scheduled on a different node")
	}
	return admitNodesAudience(node, a, pod, request)
}

func admitNodesAudience(
	node string, a admission.Attributes, pod *corev1.Pod, request *authenticationv1.TokenRequest,
) error {
	audience := ""
	switch len(request.Spec.Audiences) {
	case 0:
	case 1:
		audience = request.Spec.Audiences[0]
	default:
		return forbid(a, "node may only request 0 or 1 audiences")
	}
	allowed, declared := declaredSeconds(pod, audience)
	if !declared {
		return forbid(a, "audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience",
			audience, a.GetUserInfo().GetName())
	}
	if asked := secondsOf(request.Spec.ExpirationSeconds); asked > allowed {
		return forbid(a, "node %q requested a token of %d seconds, longer than the %d that pod %s asks for", node, asked, allowed, pod.Name)
	}
	return nil
}

// declaredSeconds is the longest life that a pod's volumes ask for tokens of an audience, "" being
// the API server's; false when none asks for any.
func declaredSeconds(pod *corev1.Pod, audience string) (longest int64, declared bool) {
	for i := range pod.Spec.Volumes {
		projected := pod.Spec.Volumes[i].Projected
		if projected == nil {
			continue
		}
		for _, source := range projected.Sources {
			if t := source.ServiceAccountToken; t != nil && t.Audience == audience {
				longest, declared = max(longest, secondsOf(t.ExpirationSeconds)), true
			}
		}
	}
	return longest, declared
}

func secondsOf(given *int64) int64 {
	if given == nil {
		return defaultTokenSeconds
	}
	return *given
}
