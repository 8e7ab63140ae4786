package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"coracle/internal/nodestate"
	"coracle/internal/pki"
	"coracle/internal/resource"
)

// streams are the subresources of pods that become a connection to the node, with their options.
var streams = map[string]func() runtime.Object{
	"exec":        func() runtime.Object { return &corev1.PodExecOptions{} },
	"attach":      func() runtime.Object { return &corev1.PodAttachOptions{} },
	"portforward": func() runtime.Object { return &corev1.PodPortForwardOptions{} },
}

// stream serves pods/exec, pods/attach and pods/portforward by passing the connection on to the
// kubelet face of the pod's node.
type stream struct {
	tunnels *Tunnels
	name    string
	options func() runtime.Object
}

var _ rest.Connecter = (*stream)(nil)

// New implements rest.Storage.
func (s *stream) New() runtime.Object { return s.options() }

// Destroy implements rest.Storage.
func (s *stream) Destroy() {}

// NewConnectOptions implements rest.Connecter.
func (s *stream) NewConnectOptions() (runtime.Object, bool, string) { return s.options(), false, "" }

// ConnectMethods implements rest.Connecter: POST starts SPDY, GET a WebSocket.
func (s *stream) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

// Connect implements rest.Connecter.
func (s *stream) Connect(ctx context.Context, name string, options runtime.Object, r rest.Responder) (http.Handler, error) {
	if err := s.mayCreate(ctx); err != nil {
		return nil, err
	}
	location, opts, err := s.locate(ctx, name, options)
	if err != nil {
		return nil, err
	}
	upgrade := proxy.NewUpgradeAwareHandler(location, s.tunnels.nodes, false, true, proxy.NewErrorResponder(r))
	upgrade.UseLocationHost = true
	// WebSockets end here and go on as SPDY, which every CRI streaming server speaks.
	if s.name == "portforward" {
		return translator.NewTranslatingHandler(upgrade, translator.NewTunnelingHandler(upgrade),
			wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
	}
	return translator.NewTranslatingHandler(upgrade,
		translator.NewStreamTranslatorHandler(location, s.tunnels.nodes, 0, opts),
		wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
}

// mayCreate asks of whoever comes by GET, as WebSockets do, the right that POST would ask of him: a role that may read
// pods/exec opens no terminal (upstream's AuthorizePodWebsocketUpgradeCreatePermission).
func (s *stream) mayCreate(ctx context.Context) error {
	attributes, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if attributes.GetVerb() == "create" {
		return nil
	}
	asked := authorizer.AttributesRecord{
		User: attributes.GetUser(), Verb: "create", Namespace: attributes.GetNamespace(), APIGroup: attributes.GetAPIGroup(),
		APIVersion: attributes.GetAPIVersion(), Resource: attributes.GetResource(), Subresource: attributes.GetSubresource(),
		Name: attributes.GetName(), ResourceRequest: true, Path: attributes.GetPath(),
	}
	decision, reason, err := s.tunnels.authz.Authorize(ctx, asked)
	switch {
	case err != nil:
		return apierrors.NewInternalError(err)
	case decision != authorizer.DecisionAllow:
		return responsewriters.ForbiddenStatusError(asked, reason)
	}
	return nil
}

// locate returns where a pod's stream is to be had, and which streams are asked for.
func (s *stream) locate(ctx context.Context, name string, options runtime.Object) (*url.URL, translator.Options, error) {
	var opts translator.Options
	pod, err := s.tunnels.pod(ctx, name)
	if err != nil {
		return nil, opts, err
	}
	query := url.Values{}
	container := ""
	switch o := options.(type) {
	case *corev1.PodExecOptions:
		container = o.Container
		opts = translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
		query["command"] = o.Command
	case *corev1.PodAttachOptions:
		container = o.Container
		opts = translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
	case *corev1.PodPortForwardOptions:
		for _, port := range o.Ports {
			query.Add("port", strconv.Itoa(int(port)))
		}
	default:
		return nil, opts, apierrors.NewBadRequest(fmt.Sprintf("invalid options object: %#v", options))
	}
	for key, on := range map[string]bool{"input": opts.Stdin, "output": opts.Stdout, "error": opts.Stderr, "tty": opts.Tty} {
		if on {
			query.Set(key, "1")
		}
	}
	path := fmt.Sprintf("/%s/%s/%s", map[string]string{"exec": "exec", "attach": "attach", "portforward": "portForward"}[s.name], pod.Namespace, pod.Name)
	if s.name != "portforward" {
		if container, err = containerOf(pod, container); err != nil {
			return nil, opts, err
		}
		path += "/" + container
	}
	if pod.Spec.NodeName == "" {
		return nil, opts, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	host, err := s.tunnels.nodeHost(pod)
	if err != nil {
		return nil, opts, err
	}
	return &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: query.Encode()}, opts, nil
}

// pod returns the stored pod, shared.
func (t *Tunnels) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	obj, ok := t.Get(resource.Pods, request.NamespaceValue(ctx), name)
	if pod, isPod := obj.(*corev1.Pod); ok && isPod {
		return pod, nil
	}
	return nil, apierrors.NewNotFound(resource.Pods.GroupResource(), name)
}

// containerOf checks the name of a container, or finds the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var containers, inits, ephemeral []string
	for i := range pod.Spec.Containers {
		containers = append(containers, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.InitContainers {
		inits = append(inits, pod.Spec.InitContainers[i].Name)
	}
	for i := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, pod.Spec.EphemeralContainers[i].Name)
	}
	if name == "" {
		switch len(containers) {
		case 1:
			return containers[0], nil
		case 0:
			return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
		}
		msg := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, fmt.Sprint(containers))
		if len(inits) > 0 {
			msg += fmt.Sprintf(" or one of the init containers: %s", fmt.Sprint(inits))
		}
		return "", apierrors.NewBadRequest(msg)
	}
	for _, list := range [][]string{containers, inits, ephemeral} {
		for _, c := range list {
			if c == name {
				return name, nil
			}
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

// nodeHost returns the address of the kubelet face of a pod's node.
func (t *Tunnels) nodeHost(pod *corev1.Pod) (string, error) {
	name := pod.Spec.NodeName
	obj, ok := t.Get(resource.Nodes, "", name)
	node, isNode := obj.(*corev1.Node)
	if !ok || !isNode {
		return "", apierrors.NewNotFound(resource.Nodes.GroupResource(), name)
	}
	if nodestate.Simulated(node) {
		return "", apierrors.NewBadRequest(fmt.Sprintf("pod %s runs on the simulated node %s: it has no containers", pod.Name, name))
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && port != 0 {
			return net.JoinHostPort(a.Address, strconv.Itoa(int(port))), nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has not said where its agent listens (status.addresses, status.daemonEndpoints)", name))
}

// newNodeTransport speaks to kubelet faces, as coracle-apiserver. It trusts the cluster's
// authority alone.
func newNodeTransport(ca *pki.Authority) (*http.Transport, error) {
	pair, err := ca.ClientCert(pki.APIServerUser, pki.MastersGroup)
	if err != nil {
		return nil, err
	}
	cert, err := pair.TLS()
	if err != nil {
		return nil, fmt.Errorf("certificate for the nodes: %w", err)
	}
	return &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: ca.CAPool(), Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
	}, nil
}

// podLog serves pods/log.
type podLog struct{ tunnels *Tunnels }

var _ rest.GetterWithOptions = (*podLog)(nil)

// New implements rest.Storage.
func (l *podLog) New() runtime.Object { return &corev1.Pod{} }

// Destroy implements rest.Storage.
func (l *podLog) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (l *podLog) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (l *podLog) ProducesObject(string) any { return "" }

// NewGetOptions implements rest.GetterWithOptions.
func (l *podLog) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

// OverrideMetricsVerb implements endpoints.StorageMetricsOverride.
func (l *podLog) OverrideMetricsVerb(verb string) string { return verb }

// Get implements rest.GetterWithOptions.
func (l *podLog) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	o, ok := options.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	if err := validateLogOptions(o); err != nil {
		return nil, err
	}
	pod, err := l.tunnels.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	container, err := containerOf(pod, o.Container)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return &genericrest.LocationStreamer{ContentType: "text/plain"}, nil
	}
	host, err := l.tunnels.nodeHost(pod)
	if err != nil {
		return nil, err
	}
	return &genericrest.LocationStreamer{
		Location: &url.URL{
			Scheme: "https", Host: host, RawQuery: logQuery(o).Encode(),
			Path: fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container),
		},
		Transport:       l.tunnels.nodes,
		ContentType:     "text/plain",
		Flush:           o.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(resource.Pods.GroupResource(), name),
		RedirectChecker: genericrest.PreventRedirects,
	}, nil
}

func validateLogOptions(o *corev1.PodLogOptions) error {
	var problems []string
	negative := func(field string, v *int64, least int64) {
		if v != nil && *v < least {
			problems = append(problems, fmt.Sprintf("%s: Invalid value: %d: must be greater than or equal to %d", field, *v, least))
		}
	}
	negative("tailLines", o.TailLines, 0)
	negative("limitBytes", o.LimitBytes, 1)
	negative("sinceSeconds", o.SinceSeconds, 1)
	if o.SinceSeconds != nil && o.SinceTime != nil {
		problems = append(problems, "sinceSeconds: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified")
	}
	if len(problems) == 0 {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
		Message: "PodLogOptions is invalid: " + strings.Join(problems, ", "),
	}}
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	flags := map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps}
	for key, on := range flags {
		if on {
			q.Set(key, "true")
		}
	}
	numbers := map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes}
	for key, v := range numbers {
		if v != nil {
			q.Set(key, strconv.FormatInt(*v, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil {
		q.Set("stream", *o.Stream)
	}
	return q
}
