package apiserver

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// BenchmarkNodeDecision decides for a node of 110 pods in one namespace, the node being all of the
// cluster or one of a hundred: the cost must be the same.
func BenchmarkNodeDecision(b *testing.B) {
	for _, nodes := range []int{1, 100} {
		c := start(b)
		account(b, c)
		i, ctx := c.Client(), ctxOf(b)
		for n := range nodes {
			for p := range 110 {
				pod := podNamed(fmt.Sprintf("p-%d-%d", n, p))
				pod.Spec.NodeName = fmt.Sprintf("n%d", n)
				pod.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s-" + pod.Name}}}}
				if _, err := i.Create(ctx, pod); err != nil {
					b.Fatal(err)
				}
			}
		}
		node := &user.DefaultInfo{Name: "system:node:n0", Groups: []string{user.NodesGroup, user.AllAuthenticated}}
		for name, a := range map[string]authorizer.AttributesRecord{
			"pod":            {Verb: "get", Resource: "pods", Name: "p-0-109"},
			"secret":         {Verb: "get", Resource: "secrets", Name: "s-p-0-109"},
			"foreign-secret": {Verb: "get", Resource: "secrets", Name: "s-p-1-1"},
			"token":          {Verb: "create", Resource: "serviceaccounts", Subresource: "token", Name: "default"},
			"claim":          {Verb: "get", Resource: "persistentvolumeclaims", Name: "none"},
		} {
			a.User, a.Namespace, a.ResourceRequest = node, "default", true
			b.Run(fmt.Sprintf("%s/nodes=%d", name, nodes), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, _, err := c.authz.Authorize(ctx, a); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
