package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // what the dialers of client-go implement
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	portforwardserver "k8s.io/cri-streaming/pkg/streaming/portforward"
	remotecommandserver "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"coracle/internal/pki"
)

const pods = "/api/v1/namespaces/default/pods"

// running makes a pod that runs and is ready.
func running(t *testing.T, c *cluster, name, app string) {
	t.Helper()
	c.post(pods, fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"app":%q}},"spec":{"nodeName":"n1","terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"i"}]}}`, name, app)).want(201)
	c.call(c.http, "PATCH", pods+"/"+name+"/status", `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`,
		"Content-Type", "application/merge-patch+json").want(200).wantField("status.phase", "Running")
}

func evict(c *cluster, name, more string) answer {
	return c.post(pods+"/"+name+"/eviction", fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q}%s}`, name, more))
}

func TestEvictionWithoutBudget(t *testing.T) {
	c := start(t)
	account(t, c)
	running(t, c, "p", "a")
	evict(c, "none", "").want(404)
	c.post(pods+"/p/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"q"}}`).want(400).wantBody("name in URL does not match")
	evict(c, "p", `,"deleteOptions":{"dryRun":["All"]}`).want(201)
	c.get(pods + "/p").want(200)
	evict(c, "p", `,"deleteOptions":{"preconditions":{"uid":"other"}}`).want(409)
	evict(c, "p", "").want(201).wantField("status", "Success")
	c.get(pods + "/p").want(404)
}

func TestEvictionHonoursBudget(t *testing.T) {
	c := start(t)
	account(t, c)
	for _, name := range []string{"p1", "p2", "p3"} {
		running(t, c, name, "a")
	}
	budgets := "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
	c.post(budgets, `{"metadata":{"name":"b"},"spec":{"minAvailable":2,"selector":{"matchLabels":{"app":"a"}}}}`).want(201)
	a := evict(c, "p1", "").want(429).wantField("message", "Cannot evict pod as it would violate the pod's disruption budget.")
	a.wantBody("The disruption budget b is still being processed by the server.").wantBody(`"DisruptionBudget"`)
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	allow := func(n int) {
		t.Helper()
		c.call(c.http, "PATCH", budgets+"/b/status", fmt.Sprintf(
			`{"status":{"observedGeneration":1,"disruptionsAllowed":%d,"currentHealthy":3,"desiredHealthy":2,"expectedPods":3}}`, n),
			"Content-Type", "application/merge-patch+json").want(200)
	}
	allow(1)
	evict(c, "p1", "").want(201)
	b := c.get(budgets+"/b").wantField("status.disruptionsAllowed", "0")
	if !strings.Contains(b.field("status.disruptedPods"), "p1") {
		t.Errorf("disrupted pods %s", b.field("status.disruptedPods"))
	}
	evict(c, "p2", "").want(429).wantBody("The disruption budget b needs 2 healthy pods and has 3 currently")
	c.get(pods + "/p2").want(200)
	// A pod that has finished is no loss.
	c.call(c.http, "PATCH", pods+"/p2/status", `{"status":{"phase":"Succeeded"}}`, "Content-Type", "application/merge-patch+json").want(200)
	evict(c, "p2", "").want(201)
	allow(0)
	// An unhealthy pod may go while the budget is met otherwise.
	c.call(c.http, "PATCH", pods+"/p3/status", `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, "Content-Type", "application/merge-patch+json").want(200)
	evict(c, "p3", "").want(201)
}

func TestEvictionUnderTwoBudgets(t *testing.T) {
	c := start(t)
	account(t, c)
	running(t, c, "p", "a")
	for _, name := range []string{"b1", "b2"} {
		c.post("/apis/policy/v1/namespaces/default/poddisruptionbudgets", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"minAvailable":0,"selector":{"matchLabels":{"app":"a"}}}}`, name)).want(201)
	}
	evict(c, "p", "").want(500).wantBody("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
}

func TestScale(t *testing.T) {
	c := start(t)
	path := "/apis/apps/v1/namespaces/default/deployments"
	c.post(path, `{"metadata":{"name":"d"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`).want(201)
	c.get(path+"/d/scale").want(200).wantField("kind", "Scale").wantField("apiVersion", "autoscaling/v1").wantField("spec.replicas", "1").wantField("status.selector", "a=b")
	c.call(c.http, "PATCH", path+"/d/scale", `{"spec":{"replicas":3}}`, "Content-Type", "application/merge-patch+json").want(200).wantField("spec.replicas", "3")
	scaled := c.get(path+"/d").wantField("spec.replicas", "3").wantField("metadata.generation", "2")
	if !strings.Contains(scaled.field("metadata.managedFields"), `"subresource":"scale"`) {
		t.Errorf("managed fields %s", scaled.field("metadata.managedFields"))
	}
	c.call(c.http, "PATCH", path+"/d/scale", `{"spec":{"replicas":-1}}`, "Content-Type", "application/merge-patch+json").want(422)
	c.call(c.http, "PUT", path+"/d/scale", `{"metadata":{"name":"d","namespace":"default","resourceVersion":"1"},"spec":{"replicas":5}}`).want(409)
}

// face is the kubelet face of a node, as far as the API server can see of it.
type kubelet struct{}

// ExecInContainer implements remotecommandserver.Executor: it names what it was asked to run and
// echoes its input.
func (kubelet) ExecInContainer(_ context.Context, name, uid, container string, cmd []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommandserver.TerminalSize, _ time.Duration) error {
	if _, err := fmt.Fprintf(out, "%s in %s: ", strings.Join(cmd, " "), container); err != nil {
		return err
	}
	_, err := io.Copy(out, in)
	return err
}

// PortForward implements portforwardserver.PortForwarder: it names the port and echoes.
func (kubelet) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	if _, err := fmt.Fprintf(stream, "port %d: ", port); err != nil {
		return err
	}
	_, err := io.Copy(stream, stream)
	return err
}

func (f kubelet) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if user := req.TLS.PeerCertificates[0].Subject.CommonName; user != pki.APIServerUser {
		http.Error(w, "wrong user "+user, http.StatusForbidden)
		return
	}
	if name, ok := strings.CutPrefix(req.URL.Path, "/containerLogs/default/p/"); ok {
		if req.URL.Query().Get("previous") != "" {
			http.Error(w, "previous terminated container not found", http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "log of %s, tail %s", name, req.URL.Query().Get("tailLines"))
		return
	}
	if strings.HasPrefix(req.URL.Path, "/portForward/default/p") {
		options, err := portforwardserver.NewV4Options(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforwardserver.ServePortForward(w, req, f, "p", "", options, time.Minute, time.Minute, portforwardserver.SupportedProtocols)
		return
	}
	container := req.URL.Path[strings.LastIndexByte(req.URL.Path, '/')+1:]
	options, err := remotecommandserver.NewOptions(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommandserver.ServeExec(w, req, f, "p", "", container, req.URL.Query()["command"], options, time.Minute, time.Minute,
		[]string{"v4.channel.k8s.io"})
}

// withNode starts a face and registers its node, n1, with a pod p of two containers on it.
func withNode(t *testing.T, c *cluster) {
	t.Helper()
	pair, err := c.pki.ServerCert("system:node:n1", []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(kubelet{})
	srv.TLS = &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: c.pki.CAPool(), ClientAuth: tls.RequireAndVerifyClientCert,
		NextProtos: []string{"http/1.1"},
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.post("/api/v1/nodes", `{"metadata":{"name":"n1"}}`).want(201)
	c.call(c.http, "PATCH", "/api/v1/nodes/n1/status", fmt.Sprintf(
		`{"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":%s}}}}`, port),
		"Content-Type", "application/merge-patch+json").want(200)
	account(t, c)
	c.post(pods, `{"metadata":{"name":"p"},"spec":{"nodeName":"n1","containers":[{"name":"a","image":"i"},{"name":"b","image":"i"}]}}`).want(201)
}

func TestLog(t *testing.T) {
	c := start(t)
	withNode(t, c)
	a := c.get(pods + "/p/log?container=b&tailLines=7").want(200)
	if string(a.body) != "log of b, tail 7" || a.header.Get("Content-Type") != "text/plain" {
		t.Errorf("log is %q of type %q", a.body, a.header.Get("Content-Type"))
	}
	c.get(pods + "/p/log").want(400).wantBody("a container name must be specified for pod p, choose one of: [a b]")
	c.get(pods + "/p/log?container=z").want(400).wantBody("container z is not valid for pod p")
	c.get(pods + "/p/log?container=a&previous=true").want(400).wantBody("previous terminated container not found")
	c.get(pods + "/p/log?container=a&tailLines=x").want(400).wantBody("is not a number")
	c.get(pods + "/p/log?container=a&sinceSeconds=0").want(422)
	c.get(pods + "/q/log").want(404)
	// A pod that no node has yet has no log yet.
	c.post(pods, `{"metadata":{"name":"q"},"spec":{"containers":[{"name":"a","image":"i"}]}}`).want(201)
	if a := c.get(pods + "/q/log").want(204); len(a.body) != 0 {
		t.Errorf("log of an unscheduled pod: %q", a.body)
	}
	c.get(pods + "/q/exec?command=x&stdout=1").want(400).wantBody("pod q does not have a host assigned")
}

func TestExec(t *testing.T) {
	c := start(t)
	withNode(t, c)
	u, err := url.Parse(c.url + pods + "/p/exec?container=b&command=cat&command=-&stdin=1&stdout=1")
	if err != nil {
		t.Fatal(err)
	}
	config := c.restConfig("admin", pki.MastersGroup)
	framed, err := remotecommand.NewSPDYExecutor(config, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	websocket, err := remotecommand.NewWebSocketExecutor(config, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	for name, executor := range map[string]remotecommand.Executor{"SPDY": framed, "WebSocket": websocket} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := executor.StreamWithContext(ctxOf(t), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
			if err != nil || out.String() != "cat - in b: hello" {
				t.Errorf("output %q, %v", out.String(), err)
			}
		})
	}
}

func TestPortForward(t *testing.T) {
	c := start(t)
	withNode(t, c)
	u, err := url.Parse(c.url + pods + "/p/portforward")
	if err != nil {
		t.Fatal(err)
	}
	config := c.restConfig("admin", pki.MastersGroup)
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(u, config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{
		"SPDY":      spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u),
		"WebSocket": tunnel,
	} {
		t.Run(name, func(t *testing.T) {
			stop, up, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			forward, err := portforward.New(dialer, []string{"0:80"}, stop, up, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			go func() { done <- forward.ForwardPorts() }()
			defer func() {
				close(stop)
				<-done
			}()
			select {
			case <-up:
			case <-ctxOf(t).Done():
				t.Fatal("not ready")
			}
			ports, err := forward.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			want := "port 80: hello"
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestPodWaitsForItsAccount posts a pod right after its namespace, before the account controller
// has been there.
func TestPodWaitsForItsAccount(t *testing.T) {
	c := start(t)
	made := make(chan answer, 1)
	go func() {
		made <- c.post(pods, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	}()
	account(t, c)
	(<-made).want(201).wantField("spec.serviceAccountName", "default")
	c.post(pods, `{"metadata":{"name":"q"},"spec":{"serviceAccountName":"none","containers":[{"name":"c","image":"i"}]}}`).want(403).
		wantBody(`error looking up service account default/none: serviceaccount \"none\" not found`)
}
