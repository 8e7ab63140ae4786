package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ranges6 are IPv6 ranges of a cluster of its own (RFC 4193), by its place in the temporary directory.
func ranges6(t *testing.T) (pods, services string) {
	t.Helper()
	for b := byte(0); b < 64; b++ {
		p, s := netip.AddrFrom16([16]byte{0xfd, 0xe2, 0xe0, b, 0x02, 0x44}), netip.AddrFrom16([16]byte{0xfd, 0xe2, 0xe0, b, 0, 0x96})
		if !heldHere(t, p) {
			return netip.PrefixFrom(p, 56).String(), netip.PrefixFrom(s, 112).String()
		}
	}
	t.Fatal("all IPv6 ranges of the tests are in use on this machine")
	return "", ""
}

func heldHere(t *testing.T, a netip.Addr) bool {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range addrs {
		if p, err := netip.ParsePrefix(have.String()); err == nil && netip.PrefixFrom(a, 56).Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// settings6 are what a cluster of two families changes of the machine.
func settings6(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/*", "net/ipv6/conf/eth0/*", "net/ipv6/icmp/ratemask"} {
		found, err := filepath.Glob("/proc/sys/" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			if raw, err := os.ReadFile(path); err == nil {
				out[path] = string(raw)
			}
		}
	}
	return out
}

// TestDualStack: in a cluster of two families pods and services have addresses of both, are reached by them from pods and from
// the node, by names and by node ports, policies govern both, and down puts everything back.
func TestDualStack(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("this kernel has no IPv6: ", err)
	} else {
		l.Close()
	}
	before := settings6(t)
	c := emptyCluster(t)
	pods6, services6 := ranges6(t)
	c.up(2, "--listen", "127.0.0.1:0", "--pod-cidr", "10.231.0.0/16,"+pods6, "--service-cidr", "10.232.0.0/16,"+services6)
	c.connect()
	c.images().withEmbedded()
	c.apply(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec: {type: NodePort, ipFamilies: [IPv6], selector: {app: web}, ports: [{port: 80, targetPort: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sh, -c, "mkdir /www; echo web $IPS >/www/index.html; exec httpd -f -p '[::]:8081' -h /www"]
    env: [{name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: e2e/tools:1, command: [sleep, "3600"]}
`)
	c.pods("default", 2)
	field := func(what, path string) string { return c.k("get", what, "-o", "jsonpath={"+path+"}") }

	ips := strings.Fields(field("pod/web", ".status.podIPs[*].ip"))
	if len(ips) != 2 || !strings.HasPrefix(ips[0], "10.231.") || !netip.MustParsePrefix(pods6).Contains(netip.MustParseAddr(ips[1])) {
		t.Fatalf("the pod has %v", ips)
	}
	cluster := strings.Fields(field("service/web", ".spec.clusterIPs[*]"))
	if len(cluster) != 2 {
		t.Fatalf("the service has %v", cluster)
	}
	node := strings.Fields(field("node/node-1", `.status.addresses[?(@.type=="InternalIP")].address`))
	six, port, onlySix := "["+cluster[1]+"]", field("service/web", ".spec.ports[0].nodePort"), field("service/six", ".spec.ports[0].nodePort")
	page := "web " + strings.Join(ips, ",") + "\n"
	// The wget of a static busybox dies of IPv6 addresses; its nc does not.
	ask := func(pod, host, port string, seconds string) result {
		return c.try("exec", pod, "--", "sh", "-c", `echo -e 'GET / HTTP/1.0\r\n\r\n' | nc -w `+seconds+" "+host+" "+port)
	}
	wants := func(pod, host, port string) {
		t.Helper()
		if r := ask(pod, host, port, "5"); !strings.HasSuffix(r.out, page) {
			t.Errorf("%s asks %s port %s: %q, %s", pod, host, port, r.out, r.errs)
		}
	}
	eventually(t, patience, "the service by its IPv6 address", func() bool { return strings.HasSuffix(ask("client", cluster[1], "80", "5").out, page) })
	for _, host := range []string{cluster[0], cluster[1], "web", "six", "web.default.svc.cluster.local"} {
		wants("client", host, "80")
	}
	wants("client", ips[1], "8081")
	wants("client", "peers", "8081")
	wants("web", cluster[1], "80") // a pod reaches itself
	if got := ask("client", strings.Fields(field("service/empty", ".spec.clusterIPs[*]"))[1], "80", "5"); !strings.Contains(got.errs, "refused") {
		t.Errorf("a service without endpoints: %q", got.errs)
	}

	once := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	fromNode := []string{six, "127.0.0.1:" + port, "[::1]:" + port, "[::1]:" + onlySix}
	for _, a := range node {
		fromNode = append(fromNode, net.JoinHostPort(a, port))
	}
	for _, at := range fromNode {
		if resp, err := once.Get("http://" + at + "/"); err != nil {
			t.Errorf("the node asks %s: %v", at, err)
		} else {
			resp.Body.Close()
		}
	}

	for name, want := range map[string]string{"web": cluster[1], "peers": ips[1]} {
		if got := c.try("exec", "client", "--", "nslookup", "-type=AAAA", name+".default.svc.cluster.local"); !strings.Contains(got.out, "Address: "+want) {
			t.Errorf("AAAA of %s: %q", name, got.out)
		}
	}
	if got := c.try("exec", "client", "--", "nslookup", cluster[1]); !strings.Contains(got.out, "name = web.default.svc.cluster.local") {
		t.Errorf("PTR of %s: %q", cluster[1], got.out)
	}
	if hosts := c.k("exec", "web", "--", "cat", "/etc/hosts"); !strings.Contains(hosts, ips[0]+"\tweb") || !strings.Contains(hosts, ips[1]+"\tweb") {
		t.Errorf("/etc/hosts: %q", hosts)
	}
	if got := field("endpointslices", ".items[*].addressType"); strings.Count(got, "IPv6") < 4 {
		t.Errorf("slices are of %s", got)
	}
	if got := field("ipaddresses", ".items[*].metadata.name"); !strings.Contains(got, cluster[1]) {
		t.Errorf("IPAddresses are %s", got)
	}

	c.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}
`)
	denied := func(host, port string) bool { return !strings.HasSuffix(ask("client", host, port, "1").out, page) }
	for _, host := range cluster {
		eventually(t, patience, "the policy denies "+host, func() bool { return denied(host, "80") })
	}
	if !denied(ips[1], "8081") {
		t.Error("the pod's own address is not denied")
	}
	var client corev1.Pod
	if err := json.Unmarshal([]byte(c.k("get", "pod", "client", "-o", "json")), &client); err != nil {
		t.Fatal(err)
	}
	c.apply(strings.ReplaceAll(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: ADDRESS/128}}]}]}
`, "ADDRESS", client.Status.PodIPs[1].IP))
	eventually(t, patience, "the policy allows by an IPv6 block", func() bool { return !denied(cluster[1], "80") })
	if !denied(cluster[0], "80") {
		t.Error("an IPv6 block allows IPv4")
	}

	c.coracle("down", "--grace", "1s")
	after := settings6(t)
	for path, was := range before {
		if after[path] != was {
			t.Errorf("%s was %q and is %q", path, was, after[path])
		}
	}
}
