package tunnel

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/pki"
	"coracle/internal/resource"
)

// objects are those of the cluster, shared.
type objects interface {
	Get(res resource.Resource, namespace, name string) (runtime.Object, bool)
	List(res resource.Resource, namespace string) []runtime.Object
}

// tunnels are the ways through the server to nodes, and to what pods serve.
type Tunnels struct {
	objects
	authz authorizer.UnconditionalAuthorizer
	// nodes is the way to the kubelet faces, and strangers the way to what pods serve.
	nodes, Strangers *http.Transport
}

// newTunnels makes the ways; the server is known to nodes by a certificate of the authority's.
func New(o objects, authz authorizer.UnconditionalAuthorizer, ca *pki.Authority) (*Tunnels, error) {
	nodes, err := newNodeTransport(ca)
	if err != nil {
		return nil, err
	}
	return &Tunnels{o, authz, nodes, newStrangerTransport()}, nil
}

// subresources are those of a kind that lead through the server, by name.
func (t *Tunnels) Subresources(res resource.Resource) map[string]rest.Storage {
	switch res {
	case resource.Pods:
		subs := map[string]rest.Storage{"log": &podLog{t}, "proxy": t.podProxy()}
		for name, options := range streams {
			subs[name] = &stream{tunnels: t, name: name, options: options}
		}
		return subs
	case resource.Services:
		return map[string]rest.Storage{"proxy": t.serviceProxy()}
	case resource.Nodes:
		return map[string]rest.Storage{"proxy": t.nodeProxy()}
	}
	return nil
}
