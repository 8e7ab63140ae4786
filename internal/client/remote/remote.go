// Package remote is client.Interface over HTTPS, for processes that do not hold the API server:
// node agents and tools.
//
// It owns the requests (protobuf both ways), and nothing else: no caches, no retries beyond those
// of the transport, no rate limit. It refuses the generated clientset, whose weight it avoids.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/scheme"
)

// defaultManager is the field manager of writes whose context names none.
const defaultManager = "coracle"

// Client reaches one cluster.
type Client struct {
	config *rest.Config
	http   *http.Client

	mu      sync.Mutex
	clients map[schema.GroupVersion]*rest.RESTClient
}

var _ client.Interface = (*Client)(nil)

// New returns a client for a configuration of client-go, which is not changed. Its rate limits
// are ignored: the server says when it has had enough.
func New(config *rest.Config) (*Client, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	if config.UserAgent == "" {
		config.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	return &Client{config: config, http: httpClient, clients: map[schema.GroupVersion]*rest.RESTClient{}}, nil
}

// FromKubeconfig returns a client for the current context of a kubeconfig file.
func FromKubeconfig(path string) (*Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("remote: read kubeconfig %s: %w", path, err)
	}
	return New(config)
}

// Config returns a copy of the client's configuration.
func (c *Client) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// of returns the REST client of a group version.
func (c *Client) of(gv schema.GroupVersion) (*rest.RESTClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found, ok := c.clients[gv]; ok {
		return found, nil
	}
	config := rest.CopyConfig(c.config)
	config.GroupVersion = &gv
	config.APIPath = "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	made, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	c.clients[gv] = made
	return made, nil
}

// request begins a request on a kind.
func (c *Client) request(verb string, res resource.Resource, namespace string) (*rest.Request, error) {
	rc, err := c.of(res.GVK().GroupVersion())
	if err != nil {
		return nil, err
	}
	return rc.Verb(verb).NamespaceIfScoped(namespace, res.Namespaced && namespace != "").Resource(res.Plural), nil
}

// answer turns a result into an object without apiVersion and kind, as objects in memory are.
func answer(result rest.Result) (client.Object, error) {
	obj, err := result.Get()
	if err != nil {
		return nil, err
	}
	return asObject(obj)
}

func asObject(obj runtime.Object) (client.Object, error) {
	o, ok := obj.(client.Object)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("the server answered with %T", obj))
	}
	bare(o)
	return o, nil
}

func bare(obj runtime.Object) { obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) }

// outgoing copies the outermost struct of an object: encoding stamps apiVersion and kind on it,
// and the caller's may be shared.
func outgoing(obj runtime.Object) runtime.Object {
	v := reflect.ValueOf(obj).Elem()
	c := reflect.New(v.Type())
	c.Elem().Set(v)
	return c.Interface().(runtime.Object)
}

// Get implements client.Interface.
func (c *Client) Get(ctx context.Context, res resource.Resource, namespace, name string) (client.Object, error) {
	req, err := c.request(http.MethodGet, res, namespace)
	if err != nil {
		return nil, err
	}
	return answer(req.Name(name).Do(ctx))
}

// List implements client.Interface.
func (c *Client) List(ctx context.Context, res resource.Resource, opts client.ListOptions) ([]client.Object, string, error) {
	req, err := c.request(http.MethodGet, res, opts.Namespace)
	if err != nil {
		return nil, "", err
	}
	list, err := selected(req, opts).Do(ctx).Get()
	if err != nil {
		return nil, "", err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, "", apierrors.NewInternalError(err)
	}
	items := make([]client.Object, 0, meta.LenList(list))
	// Each item is allocated by itself: one kept must not keep the others.
	err = meta.EachListItemWithAlloc(list, func(obj runtime.Object) error {
		item, err := asObject(obj)
		if err == nil {
			items = append(items, item)
		}
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return items, m.GetResourceVersion(), nil
}

func selected(req *rest.Request, opts client.ListOptions) *rest.Request {
	if opts.LabelSelector != "" {
		req = req.Param("labelSelector", opts.LabelSelector)
	}
	if opts.FieldSelector != "" {
		req = req.Param("fieldSelector", opts.FieldSelector)
	}
	return req
}

// Watch implements client.Interface.
func (c *Client) Watch(ctx context.Context, res resource.Resource, opts client.ListOptions) (watch.Interface, error) {
	req, err := c.request(http.MethodGet, res, opts.Namespace)
	if err != nil {
		return nil, err
	}
	req = selected(req, opts).Param("watch", "true").Param("allowWatchBookmarks", "true")
	if opts.Revision != "" {
		req = req.Param("resourceVersion", opts.Revision)
	}
	w, err := req.Watch(ctx)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(event watch.Event) (watch.Event, bool) {
		if _, failed := event.Object.(*metav1.Status); !failed {
			bare(event.Object)
		}
		return event, true
	}), nil
}

// Create implements client.Interface.
func (c *Client) Create(ctx context.Context, obj client.Object) (client.Object, error) {
	req, err := c.request(http.MethodPost, resource.Of(obj), obj.GetNamespace())
	if err != nil {
		return nil, err
	}
	return answer(req.Param("fieldManager", client.ManagerFrom(ctx, defaultManager)).Body(outgoing(obj)).Do(ctx))
}

// CreateSub implements client.Interface.
func (c *Client) CreateSub(ctx context.Context, ref object.Ref, subresource string, obj any) (any, error) {
	body, ok := obj.(runtime.Object)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%T is not an API object", obj))
	}
	// The body may be of another group than the object it is about: a token request, an eviction.
	kinds, _, err := scheme.Scheme.ObjectKinds(body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	gv := ref.Resource.GVK().GroupVersion()
	for _, kind := range kinds {
		if kind.Version != runtime.APIVersionInternal {
			gv = kind.GroupVersion()
		}
	}
	rc, err := c.of(gv)
	if err != nil {
		return nil, err
	}
	answered, err := rc.Post().AbsPath(pathOf(ref, subresource)).
		Param("fieldManager", client.ManagerFrom(ctx, defaultManager)).Body(outgoing(body)).Do(ctx).Get()
	if err != nil {
		return nil, err
	}
	if _, isStatus := answered.(*metav1.Status); !isStatus {
		bare(answered)
	}
	return answered, nil
}

// pathOf returns the path of a subresource.
func pathOf(ref object.Ref, subresource string) string {
	path := "/apis/" + ref.Resource.Group + "/" + ref.Resource.Version
	if ref.Resource.Group == "" {
		path = "/api/" + ref.Resource.Version
	}
	if ref.Resource.Namespaced {
		path += "/namespaces/" + ref.Namespace
	}
	return path + "/" + ref.Resource.Plural + "/" + ref.Name + "/" + subresource
}

// Update implements client.Interface.
func (c *Client) Update(ctx context.Context, obj client.Object, subresource string) (client.Object, error) {
	req, err := c.request(http.MethodPut, resource.Of(obj), obj.GetNamespace())
	if err != nil {
		return nil, err
	}
	req = req.Name(obj.GetName())
	if subresource != "" {
		req = req.SubResource(subresource)
	}
	return answer(req.Param("fieldManager", client.ManagerFrom(ctx, defaultManager)).Body(outgoing(obj)).Do(ctx))
}

// Patch implements client.Interface. A server-side apply is forced.
func (c *Client) Patch(ctx context.Context, ref object.Ref, kind types.PatchType, body []byte, subresource string) (client.Object, error) {
	rc, err := c.of(ref.Resource.GVK().GroupVersion())
	if err != nil {
		return nil, err
	}
	req := rc.Patch(kind).NamespaceIfScoped(ref.Namespace, ref.Resource.Namespaced).
		Resource(ref.Resource.Plural).Name(ref.Name).Param("fieldManager", client.ManagerFrom(ctx, defaultManager))
	if subresource != "" {
		req = req.SubResource(subresource)
	}
	if kind == types.ApplyPatchType || kind == types.ApplyYAMLPatchType {
		req = req.Param("force", "true")
	}
	return answer(req.Body(body).Do(ctx))
}

// Delete implements client.Interface. For the kinds whose deletion the API answers with a Status
// (see the API reference: all but pods, services, claims, volumes and a few more), the object
// returned carries its name, namespace and UID only.
func (c *Client) Delete(ctx context.Context, ref object.Ref, opts metav1.DeleteOptions) (client.Object, error) {
	req, err := c.request(http.MethodDelete, ref.Resource, ref.Namespace)
	if err != nil {
		return nil, err
	}
	options := opts.DeepCopy()
	if ref.UID != "" {
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		uid := ref.UID
		options.Preconditions.UID = &uid
	}
	obj, err := req.Name(ref.Name).Body(options).Do(ctx).Get()
	if err != nil {
		return nil, err
	}
	status, ok := obj.(*metav1.Status)
	if !ok {
		return asObject(obj)
	}
	return gone(ref, status)
}

// gone makes the object that a Status about its deletion stands for.
func gone(ref object.Ref, status *metav1.Status) (client.Object, error) {
	obj, err := scheme.Scheme.New(ref.Resource.GVK())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	o, ok := obj.(client.Object)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("a kind without metadata was deleted"))
	}
	o.SetNamespace(ref.Namespace)
	o.SetName(ref.Name)
	if status.Details != nil {
		o.SetUID(status.Details.UID)
	}
	return o, nil
}
