package why_test

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/loop/looptest"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/why"
)

// name explains a name as a pod of the default namespace would ask for it.
func (w *world) name(name string) (*why.Report, string) {
	w.t.Helper()
	synctest.Wait()
	names := why.Names{Domain: "cluster.local", Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	report := why.Name(w.View, w.said, names, "default", name, time.Now())
	var b strings.Builder
	if err := report.Text(&b); err != nil {
		w.t.Fatal(err)
	}
	return report, b.String()
}

// reachable is a service at an address, or a headless one.
func reachable(namespace, name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{
		ClusterIP: ip, Selector: map[string]string{"app": "x"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		Type: corev1.ServiceTypeClusterIP,
	}}
}

// at gives a pod an address.
func at(ip string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		p.Status.Phase = corev1.PodRunning
	}
}

// member is a pod that says what it is called.
func member(hostname, subdomain string, labels map[string]string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "m-0", Labels: labels}, Spec: template().Spec}
	p.Spec.Hostname, p.Spec.Subdomain = hostname, subdomain
	return p
}

var selectedLabels = map[string]string{"app": "x"}

// TestNamesExplained plants each reason for which a name does not exist, and cures it by its remedy.
func TestNamesExplained(t *testing.T) {
	for title, tt := range map[string]struct {
		plant        func(*world)
		ask          string
		state        plan.State
		summary      string
		code, remedy string
		cure         func(*world)
	}{
		"a service": {
			plant: func(w *world) { w.make(reachable("default", "web", "10.96.0.9")) },
			ask:   "web", state: plan.Steady, summary: "A 10.96.0.9; from Service default/web; at revision ",
		},
		"in full": {
			plant: func(w *world) { w.make(reachable("default", "web", "10.96.0.9")) },
			ask:   "WEB.default.svc.cluster.local.", state: plan.Steady, summary: "A 10.96.0.9",
		},
		"a peer": {
			plant: func(w *world) {
				w.make(node("n1", "4"), reachable("default", "db", "None"), stateful(1, ""))
				w.pods("db", at("10.1.0.5"))
				w.pods("db", ready)
			},
			ask: "db-0.db", state: plan.Steady, summary: "A 10.1.0.5; from Service default/db, EndpointSlice db-",
		},
		"an address": {
			plant: func(w *world) { w.make(reachable("default", "web", "10.96.0.9")) },
			ask:   "9.0.96.10.in-addr.arpa", state: plan.Steady, summary: "PTR web.default.svc.cluster.local.",
		},
		"outside": {ask: "www.example.com", plant: func(*world) {}, state: plan.Steady, summary: "it is not the cluster's"},
		"no service": {
			plant: func(*world) {},
			ask:   "web", state: plan.Stuck, code: "NotFound", remedy: "create the service",
			cure: func(w *world) { w.make(reachable("default", "web", "10.96.0.9")) },
		},
		"another namespace": {
			plant: func(w *world) { w.make(reachable("shop", "web", "10.96.0.9")) },
			ask:   "web", state: plan.Stuck, code: "NotFound", remedy: "ask for web.shop",
		},
		"headless and not ready": {
			plant: func(w *world) {
				w.make(node("n1", "4"), reachable("default", "db", "None"), stateful(1, ""))
				w.pods("db", at("10.1.0.5"))
				w.pods("db", crashing(3, "Error"))
			},
			ask: "db", state: plan.Stuck, code: "CrashLoopBackOff",
			cure: func(w *world) { w.pods("db", ready) },
		},
		"nobody behind it": {
			plant: func(w *world) { w.make(reachable("default", "db", "None")) },
			ask:   "db", state: plan.Stuck, code: "NoPods", remedy: "start the pods",
			cure: func(w *world) {
				w.make(node("n1", "4"), member("", "", selectedLabels))
				w.pods("m", at("10.1.0.5"))
				w.pods("m", ready)
			},
		},
		"a pod that is not ready": {
			plant: func(w *world) {
				w.make(node("n1", "4"), reachable("default", "db", "None"), stateful(1, ""))
				w.pods("db", at("10.1.0.5"))
				w.pods("db", crashing(3, "Error"))
			},
			ask: "db-0.db", state: plan.Stuck, code: "CrashLoopBackOff",
			cure: func(w *world) {
				looptest.Edit(w.Cluster, resource.Services, "default", "db", func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true })
			},
		},
		"no such pod": {
			plant: func(w *world) { w.make(node("n1", "4"), reachable("default", "db", "None"), stateful(1, "")) },
			ask:   "db-1.db", state: plan.Stuck, code: "NotFound", remedy: "so many replicas",
			cure: func(w *world) {
				w.pods("db", at("10.1.0.5"))
				w.pods("db", ready)
				looptest.Edit(w.Cluster, resource.StatefulSets, "default", "db", func(s *appsv1.StatefulSet) { two := int32(2); s.Spec.Replicas = &two })
				w.pods("db-1", at("10.1.0.6"))
				w.pods("db-1", ready)
			},
		},
		"a set of another service": {
			plant: func(w *world) {
				w.make(node("n1", "4"), reachable("default", "other", "None"), stateful(1, ""))
				w.pods("db", at("10.1.0.5"))
				w.pods("db", ready)
			},
			ask: "db-0.other", state: plan.Stuck, code: "NotNamed", remedy: "serviceName: other",
		},
		"a pod that does not say so": {
			plant: func(w *world) {
				w.make(node("n1", "4"), reachable("default", "db", "None"), member("", "", selectedLabels))
				w.pods("m", at("10.1.0.5"))
				w.pods("m", ready)
			},
			ask: "m-0.db", state: plan.Stuck, code: "NotNamed", remedy: "hostname: m-0 and subdomain: db",
			cure: func(w *world) {
				looptest.Edit(w.Cluster, resource.Pods, "default", "m-0", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "m-0", "db" })
			},
		},
		"a pod that is not selected": {
			plant: func(w *world) {
				w.make(node("n1", "4"), reachable("default", "db", "None"), member("m-0", "db", nil))
				w.pods("m", at("10.1.0.5"))
				w.pods("m", ready)
			},
			ask: "m-0.db", state: plan.Stuck, code: "NotSelected", remedy: "labels",
			cure: func(w *world) { w.pods("m", func(p *corev1.Pod) { p.Labels = selectedLabels }) },
		},
		"another port": {
			plant: func(w *world) { w.make(reachable("default", "web", "10.96.0.9")) },
			ask:   "_https._tcp.web", state: plan.Stuck, code: "NoSuchPort", remedy: "ask for _http._tcp",
		},
		"no name for the port": {
			plant: func(w *world) {
				s := reachable("default", "web", "10.96.0.9")
				s.Spec.Ports[0].Name = ""
				w.make(s)
			},
			ask: "_http._tcp.web", state: plan.Stuck, code: "NoNamedPort", remedy: "give the service's port a name",
			cure: func(w *world) {
				looptest.Edit(w.Cluster, resource.Services, "default", "web", func(s *corev1.Service) { s.Spec.Ports[0].Name = "http" })
			},
		},
		"no name at all": {
			plant: func(*world) {},
			ask:   "a.b.c.d.e.cluster.local", state: plan.Stuck, code: "NotInSchema", remedy: "names are",
		},
	} {
		t.Run(title, func(t *testing.T) {
			inWorld(t, func(w *world) {
				tt.plant(w)
				report, text := w.name(tt.ask)
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
				if report, text = w.name(tt.ask); !report.Steady() {
					t.Errorf("the remedy leaves the cause:\n%s", text)
				}
			})
		})
	}
}
