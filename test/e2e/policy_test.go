package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const governed = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: ops, labels: {team: ops}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sh, -c, "nc -ll -p 8081 -e cat & nc -ll -p 8082 -e cat & exec nc -ll -p 8080 -e cat"]
    ports: [{name: named, containerPort: 8082}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: front, namespace: shop, labels: {app: front}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "e2e/tools:1", command: [sh, -c, "exec sleep 31415926"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: ops, labels: {app: front}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "e2e/tools:1", command: [sh, -c, "exec sleep 27182818"]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// allow is a policy of the namespace shop for the pods app=PODS that has one rule.
func allow(name, pods, direction, peers, ports string) string {
	side := map[string]string{"Ingress": "from", "Egress": "to"}[direction]
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: shop}
spec:
  podSelector: {matchLabels: {app: %s}}
  policyTypes: [%s]
  %s:
  - %s: [%s]
    ports: [%s]
`, name, pods, direction, strings.ToLower(direction), side, peers, ports)
}

// says sends a line over a connection and wants it back.
func says(c net.Conn, within time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return err
	}
	_, err := bufio.NewReader(c).ReadString('\n')
	return err
}

// TestPolicies: policies hold between real pods, on one node and on two, by address and by service; they change while connections
// go on; agents that are killed and a server that is away change nothing.
func TestPolicies(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images().withEmbedded()
	c.apply(governed)
	c.pods("shop", 2)
	c.pods("ops", 1)
	ip := func(namespace, name string) string {
		return c.k("get", "pod", name, "-n", namespace, "-o", "jsonpath={.status.podIP}")
	}
	web, service := ip("shop", "web"), c.k("get", "service", "web", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}")
	pods := map[string][2]string{"front": {"node-2", "31415926"}, "other": {"node-1", "27182818"}}
	dial := func(from, to string, within time.Duration) (conn net.Conn, err error) {
		return conn, c.inside(pods[from][0], pods[from][1], func() error {
			if conn, err = net.DialTimeout("tcp4", to, within); err != nil {
				return err
			}
			return says(conn, within)
		})
	}
	reaches := func(from, to string, within time.Duration) bool {
		conn, err := dial(from, to, within)
		if conn != nil {
			conn.Close()
		}
		return err == nil
	}
	allowed := func(from string, to ...string) {
		t.Helper()
		for _, at := range to {
			eventually(t, patience, from+" reaches "+at, func() bool { return reaches(from, at, 2*time.Second) })
		}
	}
	denied := func(from string, to ...string) {
		t.Helper()
		for _, at := range to {
			eventually(t, patience, from+" does not reach "+at, func() bool { return !reaches(from, at, 300*time.Millisecond) })
		}
	}
	denied("front", web+":8080", service+":80")
	denied("other", web+":8080", service+":80")
	lookUp := func() error {
		return c.try("exec", "-n", "shop", "front", "--", "nslookup", "web.shop.svc.cluster.local").err
	}
	if lookUp() == nil {
		t.Error("the name server answers where nothing is allowed")
	}

	why := func(code int, words ...string) {
		t.Helper()
		r := c.run(c.command("why", "pod/front", "-n", "shop", "--to", "svc/web:80"))
		for _, word := range words {
			if r.code() != code || !strings.Contains(r.out, word) {
				t.Errorf("why says (%d, want %d) without %q:\n%s%s", r.code(), code, word, r.out, r.errs)
			}
		}
	}
	why(2, "DeniedByNetworkPolicy", "egress of Pod shop/front is governed by NetworkPolicy nothing", "ingress of Pod shop/web is governed by NetworkPolicy nothing")

	// From the web's side, what front may not send yet; then from its own.
	c.apply(allow("to-web", "web", "Ingress", `{podSelector: {matchLabels: {app: front}}}`, `{port: 8080, endPort: 8081}`))
	denied("front", web+":8080")
	const dns = `{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}`
	c.apply(allow("from-front", "front", "Egress", `{podSelector: {matchLabels: {app: web}}}`, `{port: 8080}, {port: 8081}, {port: named}`))
	c.apply(allow("names", "front", "Egress", dns, `{port: 53, protocol: UDP}, {port: 53}`))
	allowed("front", web+":8080", web+":8081", service+":80")
	denied("front", web+":8082")
	denied("other", web+":8080")
	eventually(t, patience, "the name server answers", func() bool { return lookUp() == nil })
	why(0, "egress by spec.egress[0] of NetworkPolicy shop/from-front", "ingress by spec.ingress[0] of NetworkPolicy shop/to-web")

	going, err := dial("front", service+":80", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer going.Close()
	goesOn := func(when string) {
		t.Helper()
		if err := says(going, 5*time.Second); err != nil {
			t.Errorf("%s a connection that was open: %v", when, err)
		}
	}
	c.apply(allow("to-web", "web", "Ingress", `{namespaceSelector: {matchLabels: {team: ops}}}`, `{port: named}`))
	allowed("other", web+":8082")
	denied("other", web+":8080")
	denied("front", web+":8080")
	goesOn("after a change of its policy")
	c.apply(allow("to-web", "web", "Ingress", `{ipBlock: {cidr: 0.0.0.0/0, except: [`+ip("ops", "other")+`/32]}}`, `{port: 8080}`))
	allowed("front", web+":8080")
	denied("other", web+":8080", web+":8082")

	steady := func(when string) {
		t.Helper()
		goesOn(when)
		for range 3 {
			if !reaches("front", web+":8080", 2*time.Second) {
				t.Errorf("%s front does not reach the web", when)
			}
			if reaches("other", web+":8080", 100*time.Millisecond) {
				t.Errorf("%s other reaches the web", when)
			}
		}
	}
	for _, process := range []string{"node-node-1", "node-node-2", "server"} {
		c.kill(process)
		steady("without " + process)
	}
	c.up(2)
	steady("just after they are back")
	eventually(t, patience, "pods are ready", func() bool {
		return c.try("wait", "-n", "shop", "pod", "--all", "--for=condition=Ready", "--timeout=1s").err == nil
	})
	steady("when all are back")
	c.apply(allow("to-web", "web", "Ingress", `{podSelector: {}}`, `{port: 8081}`))
	denied("front", web+":8080")
	allowed("front", web+":8081")

	c.k("delete", "networkpolicy", "-n", "shop", "--all")
	allowed("front", web+":8080", web+":8082")
	allowed("other", web+":8080", web+":8082")
}
