package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Port resolves a probe's port by number or by the name of a container port.
func Port(p intstr.IntOrString, ports []corev1.ContainerPort) (int, error) {
	if p.Type == intstr.Int {
		return p.IntValue(), nil
	}
	for _, cp := range ports {
		if cp.Name == p.StrVal {
			return int(cp.ContainerPort), nil
		}
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("the container has no port named %q", p.StrVal)
}

// transport keeps no connection: each probe sees the server as a new client would. Certificates
// are not verified: pods have none that a node could verify.
var transport = &http.Transport{
	DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // documented: HTTPS probes skip verification
	DialContext:     (&net.Dialer{}).DialContext,
}

// Get makes the request of an httpGet handler and returns the status code and the beginning of
// the body. Redirects to another host are not followed: the answer then is the redirect itself.
func Get(ctx context.Context, h *corev1.HTTPGetAction, podIP string, ports []corev1.ContainerPort, agent string) (code int, body string, err error) {
	port, err := Port(h.Port, ports)
	if err != nil {
		return 0, "", err
	}
	host := h.Host
	if host == "" {
		host = podIP
	}
	target, err := url.Parse(h.Path)
	if err != nil {
		target = &url.URL{Path: h.Path}
	}
	target.Scheme = strings.ToLower(string(h.Scheme))
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	target.Host = net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "*/*")
	for _, header := range h.HTTPHeaders {
		switch {
		case strings.EqualFold(header.Name, "Host"):
			req.Host = header.Value
		default:
			req.Header.Add(header.Name, header.Value)
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 10<<10))
	return res.StatusCode, string(raw), err
}

func httpProbe(ctx context.Context, h *corev1.HTTPGetAction, t Target) Result {
	code, _, err := Get(ctx, h, t.PodIP, t.Ports, "kube-probe/1.37")
	switch {
	case err != nil:
		return Result{Message: plain(err)}
	case code >= 200 && code < 400:
		return Result{OK: true}
	}
	return Result{Message: fmt.Sprintf("HTTP probe failed with statuscode: %d", code)}
}

func tcpProbe(ctx context.Context, a *corev1.TCPSocketAction, t Target) Result {
	port, err := Port(a.Port, t.Ports)
	if err != nil {
		return Result{Unknown: true, Message: err.Error()}
	}
	host := a.Host
	if host == "" {
		host = t.PodIP
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Result{Message: plain(err)}
	}
	conn.Close()
	return Result{OK: true}
}

func grpcProbe(ctx context.Context, a *corev1.GRPCAction, t Target) Result {
	address := net.JoinHostPort(t.PodIP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"))
	if err != nil {
		return Result{Unknown: true, Message: err.Error()}
	}
	defer conn.Close()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	res, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return Result{Message: "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + status.Convert(err).Message()}
		case codes.DeadlineExceeded:
			return Result{Message: fmt.Sprintf("timeout: failed to connect service %q within %s: context deadline exceeded", address, left(ctx))}
		}
		return Result{Message: "error: health rpc probe failed: " + err.Error()}
	}
	if res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return Result{Message: fmt.Sprintf("service unhealthy (responded with %q)", res.Status)}
	}
	return Result{OK: true}
}

func left(ctx context.Context) time.Duration {
	at, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(at), 0).Round(time.Millisecond)
}

// plain drops nothing of an error but says it as upstream's events do.
func plain(err error) string { return clip(err.Error()) }
