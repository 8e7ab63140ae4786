package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestServices: a pod and the node reach a service by its cluster IP, by its node port and by its load balancer, one without
// endpoints refuses at once, and a pod reaches the API with what is mounted into it.
func TestServices(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images().withEmbedded()
	c.apply(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  allocateLoadBalancerNodePorts: false
  selector: {app: web}
  ports: [{port: 28417, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sh, -c, "mkdir /www; echo web >/www/index.html; exec httpd -f -p 8081 -h /www"]
    ports: [{name: http, containerPort: 8081}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, labels: {app: web}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sh, -c, "mkdir /www; echo web >/www/index.html; exec httpd -f -p 8082 -h /www"]
    ports: [{name: http, containerPort: 8082}]
`)
	c.pods("default", 2)
	field := func(service, path string) string {
		return c.k("get", "service", service, "-o", "jsonpath={"+path+"}")
	}
	web, empty, port := field("web", ".spec.clusterIP"), field("empty", ".spec.clusterIP"), field("web", ".spec.ports[0].nodePort")
	for _, pod := range []string{"web-1", "web-2"} {
		eventually(t, patience, "the service from "+pod, func() bool {
			return c.try("exec", pod, "--", "wget", "-q", "-O", "-", "http://"+web+"/").out == "web\n"
		})
		if got := c.try("exec", pod, "--", "wget", "-O", "-", "http://"+empty+"/"); !strings.Contains(got.errs, "refused") {
			t.Errorf("%s asks a service without endpoints: %q", pod, got.errs)
		}
		host := `printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT`
		if got := c.try("exec", pod, "--", "sh", "-c", strings.ReplaceAll(host, "printf", "echo -e")).out; !strings.Contains(got, "HTTPS server") {
			t.Errorf("%s asks the API server by the kubernetes service: %q", pod, got)
		}
	}
	const mounted = "/var/run/secrets/kubernetes.io/serviceaccount/"
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(c.k("exec", "web-1", "--", "cat", mounted+"ca.crt"))) {
		t.Fatal("the mounted ca.crt holds no certificate")
	}
	inCluster := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer inCluster.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, "https://"+field("kubernetes", ".spec.clusterIP")+"/api", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.k("exec", "web-1", "--", "cat", mounted+"token"))
	if resp, err := inCluster.Do(req); err != nil {
		t.Errorf("the API by the kubernetes service, as a pod trusts it: %v", err)
	} else {
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the API by the kubernetes service: %s", resp.Status)
		}
		resp.Body.Close()
	}
	once := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, patience, "an address of the load balancer", func() bool { return field("balanced", ".status.loadBalancer.ingress[0].ip") != "" })
	machine := field("balanced", ".status.loadBalancer.ingress[0].ip")
	if got := c.try("exec", "web-1", "--", "wget", "-q", "-O", "-", "http://"+machine+":28417/"); got.out != "web\n" {
		t.Errorf("a pod asks the load balancer: %q, %s", got.out, got.errs)
	}
	ways := []string{web, "127.0.0.1:" + port, machine + ":28417", machine + ":" + field("balanced", ".spec.healthCheckNodePort")}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil { // else the machine has no IPv6
		l.Close()
		ways = append(ways, "[::1]:"+port)
	}
	for _, at := range ways {
		resp, err := once.Get("http://" + at + "/")
		if err != nil {
			t.Errorf("the node asks %s: %v", at, err)
			continue
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the node asks %s: %s", at, resp.Status)
		}
		resp.Body.Close()
	}
	if resp, err := once.Get("http://" + empty + "/"); !errors.Is(err, unix.ECONNREFUSED) {
		if err == nil {
			resp.Body.Close()
		}
		t.Errorf("the node asks a service without endpoints: %v", err)
	}
}
