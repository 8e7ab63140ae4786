package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/reach"
	"coracle/internal/nodestate"
	"coracle/internal/resource"
)

// proxied serves pods/proxy, services/proxy and nodes/proxy: any request, upgrades included, goes on to where the object
// answers, and what comes back has its links and redirects led back through here. The server follows no redirect itself.
type proxied struct {
	kind    string
	options func() runtime.Object
	// locate finds where a request goes, and the way there.
	locate func(ctx context.Context, to reach.Target) (*url.URL, http.RoundTripper, error)
}

var _ rest.Connecter = (*proxied)(nil)

// New implements rest.Storage.
func (p *proxied) New() runtime.Object { return p.options() }

// Destroy implements rest.Storage.
func (p *proxied) Destroy() {}

// NewConnectOptions implements rest.Connecter: what follows in the path is the option path.
func (p *proxied) NewConnectOptions() (runtime.Object, bool, string) {
	return p.options(), true, "path"
}

// ConnectMethods implements rest.Connecter.
func (p *proxied) ConnectMethods() []string {
	return []string{
		http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions,
	}
}

// Connect implements rest.Connecter.
func (p *proxied) Connect(ctx context.Context, name string, options runtime.Object, r rest.Responder) (http.Handler, error) {
	to, err := reach.Parse(p.kind, name)
	if err != nil {
		return nil, err
	}
	path, err := proxiedPath(options)
	if err != nil {
		return nil, err
	}
	location, transport, err := p.locate(ctx, to)
	if err != nil {
		return nil, err
	}
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, path)
	return proxy.NewUpgradeAwareHandler(location, transport, true, false, proxy.NewErrorResponder(r)), nil
}

func proxiedPath(options runtime.Object) (string, error) {
	switch o := options.(type) {
	case *corev1.PodProxyOptions:
		return o.Path, nil
	case *corev1.ServiceProxyOptions:
		return o.Path, nil
	case *corev1.NodeProxyOptions:
		return o.Path, nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("invalid options object: %#v", options))
}

func (t *Tunnels) podProxy() *proxied {
	return &proxied{"pod", func() runtime.Object { return &corev1.PodProxyOptions{} },
		func(ctx context.Context, to reach.Target) (*url.URL, http.RoundTripper, error) {
			pod, err := t.pod(ctx, to.Name)
			if err != nil {
				return nil, nil, err
			}
			if err := t.played(pod); err != nil {
				return nil, nil, err
			}
			location, err := reach.Pod(pod, to)
			return location, t.Strangers, err
		}}
}

// played refuses a pod of a simulated node, at whose address nobody answers.
func (t *Tunnels) played(pod *corev1.Pod) error {
	obj, _ := t.Get(resource.Nodes, "", pod.Spec.NodeName)
	if node, ok := obj.(*corev1.Node); ok && nodestate.Simulated(node) {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s runs on the simulated node %s: it has no containers", pod.Name, node.Name))
	}
	return nil
}

func (t *Tunnels) serviceProxy() *proxied {
	return &proxied{"service", func() runtime.Object { return &corev1.ServiceProxyOptions{} },
		func(ctx context.Context, to reach.Target) (*url.URL, http.RoundTripper, error) {
			endpoint, err := t.endpointOf(ctx, to)
			if err != nil {
				return nil, nil, err
			}
			return endpoint.URL(to), t.Strangers, nil
		}}
}

// endpointOf chooses one of a service's ready endpoints, by chance, whose pod has its address.
func (t *Tunnels) endpointOf(ctx context.Context, to reach.Target) (reach.Endpoint, error) {
	namespace := request.NamespaceValue(ctx)
	obj, _ := t.Get(resource.Services, namespace, to.Name)
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return reach.Endpoint{}, apierrors.NewNotFound(resource.Services.GroupResource(), to.Name)
	}
	var slices []*discoveryv1.EndpointSlice
	for _, obj := range t.List(resource.EndpointSlices, namespace) {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok && slice.Labels[discoveryv1.LabelServiceName] == svc.Name {
			slices = append(slices, slice)
		}
	}
	endpoints, err := reach.Service(svc, slices, to)
	if err != nil {
		return reach.Endpoint{}, err
	}
	var refused error
	for _, i := range rand.Perm(len(endpoints)) {
		obj, _ := t.Get(resource.Pods, namespace, endpoints[i].Pod)
		pod, ok := obj.(*corev1.Pod)
		if !ok || !reach.Serves(pod, endpoints[i].Address) {
			continue
		}
		if refused = t.played(pod); refused == nil {
			return endpoints[i], nil
		}
	}
	if refused != nil {
		return reach.Endpoint{}, refused
	}
	return reach.Endpoint{}, reach.NoEndpoints(svc, to)
}

func (t *Tunnels) nodeProxy() *proxied {
	return &proxied{"node", func() runtime.Object { return &corev1.NodeProxyOptions{} },
		func(_ context.Context, to reach.Target) (*url.URL, http.RoundTripper, error) {
			obj, _ := t.Get(resource.Nodes, "", to.Name)
			node, ok := obj.(*corev1.Node)
			if !ok {
				return nil, nil, apierrors.NewNotFound(resource.Nodes.GroupResource(), to.Name)
			}
			if nodestate.Simulated(node) {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("node %s is simulated: nothing listens there", node.Name))
			}
			location, agent, err := reach.Node(node, to)
			if err != nil {
				return nil, nil, err
			}
			if agent {
				return location, t.nodes, nil
			}
			return location, t.Strangers, nil
		}}
}

// newStrangerTransport speaks to what pods serve. It shows nobody a certificate and, as upstream, believes any: who
// asks for https through a proxy trusts whoever answers at the pod's address. It goes through no proxy of the environment.
func newStrangerTransport() *http.Transport {
	return &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // see above
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 2,
		MaxIdleConns:        64,
		IdleConnTimeout:     30 * time.Second,
	}
}
