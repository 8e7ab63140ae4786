package why_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/why"
)

// connection explains whether a pod of the default namespace may connect to a target.
func (w *world) connection(from, to, protocol string) (*why.Report, string) {
	w.t.Helper()
	synctest.Wait()
	target, err := why.ParseTarget(to, "default", protocol)
	if err != nil {
		w.t.Fatal(err)
	}
	report, found := why.Connection(w.View, w.said, object.Key{Namespace: "default", Name: from}, target, time.Now())
	if !found {
		w.t.Fatal("there is no pod ", from)
	}
	var b strings.Builder
	if err := report.Text(&b); err != nil {
		w.t.Fatal(err)
	}
	return report, b.String()
}

// speaker is a pod that runs at an address.
func (w *world) speaker(name, app, ip string) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": app}}, Spec: template().Spec}
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	w.make(p)
	w.pods(name, at(ip))
	w.pods(name, ready)
}

func isolating(name, app string, types ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
	p.Spec.PolicyTypes = types
	return p
}

func toPort(n int32) []networkingv1.NetworkPolicyPort {
	port, protocol := intstr.FromInt32(n), corev1.ProtocolTCP
	return []networkingv1.NetworkPolicyPort{{Port: &port, Protocol: &protocol}}
}

func withLabel(app string) []networkingv1.NetworkPolicyPeer {
	return []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
}

// TestConnectionsExplained plants each reason for which a connection does not come to be, and cures it by its remedy.
func TestConnectionsExplained(t *testing.T) {
	pair := func(w *world) {
		w.make(node("n1", "4"))
		w.speaker("a", "a", "10.1.0.5")
		w.speaker("x-1", "x", "10.1.0.6")
	}
	change := func(w *world, name string, f func(*networkingv1.NetworkPolicy)) {
		looptest.Edit(w.Cluster, resource.NetworkPolicies, "default", name, f)
	}
	for title, tt := range map[string]struct {
		plant         func(*world)
		ask, protocol string
		state         plan.State
		summary       string
		code, remedy  string
		cure          func(*world)
	}{
		"no policies": {
			plant: pair, ask: "pod/x-1:8080", state: plan.Steady,
			summary: "allowed to Pod default/x-1 at 10.1.0.6:8080: egress of Pod default/a is governed by no policy, ingress of Pod default/x-1 is governed by no policy",
		},
		"by a rule": {
			plant: func(w *world) {
				pair(w)
				p := isolating("in", "x", "Ingress")
				p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: withLabel("b")}, {From: withLabel("a"), Ports: toPort(8080)}}
				w.make(p)
			},
			ask: "pod/x-1:web", state: plan.Steady, summary: "ingress by spec.ingress[1] of NetworkPolicy default/in",
		},
		"ingress by no rule": {
			plant: func(w *world) { pair(w); w.make(isolating("in", "x", "Ingress")) },
			ask:   "10.1.0.6:8080", state: plan.Stuck, summary: "denied to Pod default/x-1", code: "DeniedByNetworkPolicy",
			remedy: "spec.ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{protocol: TCP, port: 8080}]}]",
			cure: func(w *world) {
				change(w, "in", func(p *networkingv1.NetworkPolicy) {
					p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: withLabel("a"), Ports: toPort(8080)}}
				})
			},
		},
		"both ends by one policy": {
			plant: func(w *world) {
				pair(w)
				p := isolating("all", "x", "Ingress", "Egress")
				p.Spec.PodSelector = metav1.LabelSelector{}
				w.make(p)
			},
			ask: "pod/x-1:8080", state: plan.Stuck, summary: "egress by no rule, ingress by no rule", code: "DeniedByNetworkPolicy", remedy: "spec.egress",
			cure: func(w *world) {
				if report, text := w.connection("a", "pod/x-1:8080", ""); len(report.Causes) != 2 || !strings.Contains(report.Causes[1].Hint, "spec.ingress") {
					w.t.Errorf("of two ends that deny is told\n%s", text)
				}
				change(w, "all", func(p *networkingv1.NetworkPolicy) {
					p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: withLabel("x")}}
					p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: withLabel("a")}}
				})
			},
		},
		"another port": {
			plant: func(w *world) {
				pair(w)
				p := isolating("in", "x", "Ingress")
				p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: withLabel("a"), Ports: toPort(8080)}}
				w.make(p)
			},
			ask: "pod/x-1:9090", state: plan.Stuck, code: "DeniedByNetworkPolicy", remedy: "port: 9090",
		},
		"another protocol": {
			plant: func(w *world) {
				pair(w)
				p := isolating("in", "x", "Ingress")
				p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: toPort(8080)}}
				w.make(p)
			},
			ask: "pod/x-1:8080", protocol: "udp", state: plan.Stuck, code: "DeniedByNetworkPolicy", remedy: "protocol: UDP",
		},
		"egress of a service's client": {
			plant: func(w *world) {
				pair(w)
				w.make(reachable("default", "web", "10.96.0.9"), isolating("out", "a", "Egress"))
			},
			ask: "svc/web:80", state: plan.Stuck, summary: "led by Service default/web to one of its endpoints; denied to Pod default/x-1",
			code: "DeniedByNetworkPolicy", remedy: "spec.egress: [{to: [{podSelector: {matchLabels: {app: x}}}]",
			cure: func(w *world) {
				change(w, "out", func(p *networkingv1.NetworkPolicy) {
					p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: withLabel("x")}}
				})
			},
		},
		"by the service's address": {
			plant: func(w *world) { pair(w); w.make(reachable("default", "web", "10.96.0.9")) },
			ask:   "10.96.0.9:80", state: plan.Steady, summary: "led by Service default/web to one of its endpoints; allowed to Pod default/x-1 at 10.1.0.6:80",
		},
		"some endpoints only": {
			plant: func(w *world) {
				pair(w)
				w.speaker("x-2", "x", "10.1.0.7")
				p := isolating("in", "x", "Ingress")
				p.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"odd": "yes"}}
				w.make(reachable("default", "web", "10.96.0.9"), p)
				w.pods("x-2", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "x", "odd": "yes"} })
			},
			ask: "web:http", state: plan.Waiting, summary: "1 of 2 endpoints are allowed", code: "DeniedByNetworkPolicy", remedy: "spec.ingress",
		},
		"outside": {
			plant: func(w *world) { pair(w); w.make(isolating("out", "a", "Egress")) },
			ask:   "192.0.2.1:443", state: plan.Stuck, code: "DeniedByNetworkPolicy", remedy: "{ipBlock: {cidr: 192.0.2.1/32}}",
			cure: func(w *world) {
				change(w, "out", func(p *networkingv1.NetworkPolicy) {
					p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.1/32"}}}}}
				})
			},
		},
		"the name server": {
			plant: func(w *world) {
				pair(w)
				w.pods("a", func(p *corev1.Pod) { p.Spec.NodeName = "n1" })
				looptest.Edit(w.Cluster, resource.Nodes, "", "n1", func(n *corev1.Node) { n.Spec.PodCIDR = "10.1.0.0/24" })
				w.make(isolating("out", "a", "Egress"))
			},
			ask: "10.1.0.1:53", protocol: "UDP", state: plan.Stuck, code: "DeniedByNetworkPolicy", remedy: "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}",
			cure: func(w *world) {
				change(w, "out", func(p *networkingv1.NetworkPolicy) {
					p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{
						NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
					}}}}
				})
			},
		},
		"no such service": {plant: pair, ask: "svc/web:80", state: plan.Stuck, code: "NotFound", remedy: "create the service"},
		"no such pod":     {plant: pair, ask: "pod/none:80", state: plan.Stuck, code: "NotFound", remedy: "correct the name"},
		"no such port": {
			plant: func(w *world) { pair(w); w.make(reachable("default", "web", "10.96.0.9")) },
			ask:   "web:81", state: plan.Stuck, code: "NoSuchPort", remedy: "it has 80/TCP",
		},
		"no named port": {plant: pair, ask: "pod/x-1:none", state: plan.Stuck, code: "NoSuchPort", remedy: "the port's number"},
		"no endpoints": {
			plant: func(w *world) {
				pair(w)
				s := reachable("default", "web", "10.96.0.9")
				s.Spec.Selector = map[string]string{"app": "none"}
				w.make(s)
			},
			ask: "web:80", state: plan.Stuck, code: "NoPods",
		},
	} {
		t.Run(title, func(t *testing.T) {
			inWorld(t, func(w *world) {
				tt.plant(w)
				w.settle()
				report, text := w.connection("a", tt.ask, tt.protocol)
				if report.Object.State != tt.state || !strings.Contains(report.Object.Summary, tt.summary) {
					t.Fatalf("state %s, %q; want %s, %q:\n%s", report.Object.State, report.Object.Summary, tt.state, tt.summary, text)
				}
				roundTrip(t, report, text)
				if tt.code == "" {
					if len(report.Causes) > 0 {
						t.Errorf("a cause:\n%s", text)
					}
					return
				}
				if len(report.Causes) == 0 || report.Causes[0].Reason != tt.code || !strings.Contains(report.Causes[0].Hint, tt.remedy) {
					t.Fatalf("want %s, %q:\n%s", tt.code, tt.remedy, text)
				}
				if tt.cure == nil {
					return
				}
				tt.cure(w)
				w.settle()
				if report, text = w.connection("a", tt.ask, tt.protocol); !report.Steady() {
					t.Errorf("the remedy leaves the cause:\n%s", text)
				}
			})
		})
	}
}

// TestTargets: what can be asked about, and what is said to the rest.
func TestTargets(t *testing.T) {
	for text, want := range map[string]string{
		"pod/b:8080": "Pod shop/b:8080/TCP", "pod/ops/b:web": "Pod ops/b:web/TCP", "svc/web:80": "Service shop/web:80/TCP", "web:http": "Service shop/web:http/TCP",
		"10.0.0.1:53": "10.0.0.1:53/TCP", "services/ops/web:1": "Service ops/web:1/TCP",
		"pod/b": "give a port", "web:": "give a port", ":80": "give a port", "pod/b:0": "from 1 to 65535", "node/n:1": "name a pod", "a/b/c/d:1": "name a pod", "pod//b:1": "name a pod",
	} {
		got, err := why.ParseTarget(text, "shop", "")
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && got.String() != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	if _, err := why.ParseTarget("web:80", "shop", "icmp"); err == nil {
		t.Error("a connection of ICMP is explained")
	}
}
