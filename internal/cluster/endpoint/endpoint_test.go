package endpoint_test

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/endpoint"
	"coracle/internal/drain"
	"coracle/internal/loop/looptest"
	"coracle/internal/resource"
)

func service(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.9", Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web"), Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func pod(name, ip string, ready bool, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{
			Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}},
		}}},
		Status: corev1.PodStatus{PodIP: ip, Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}},
	}
	if ready {
		p.Status.Conditions[0].Status = corev1.ConditionTrue
	}
	for _, f := range change {
		f(p)
	}
	return p
}

// show prints all slices: ports, then each endpoint with its conditions.
func show(c *looptest.Cluster) string {
	var out []string
	for _, o := range c.View.List(resource.EndpointSlices, "d") {
		s := o.(*discoveryv1.EndpointSlice)
		var ports, ends []string
		for _, p := range s.Ports {
			ports = append(ports, fmt.Sprintf("%s:%d", *p.Name, *p.Port))
		}
		for _, e := range s.Endpoints {
			words := e.TargetRef.Name + "=" + e.Addresses[0]
			for word, on := range map[string]*bool{"ready": e.Conditions.Ready, "serving": e.Conditions.Serving, "terminating": e.Conditions.Terminating} {
				if *on {
					words += "," + word
				}
			}
			parts := strings.Split(words, ",")
			sort.Strings(parts[1:])
			if e.Hostname != nil {
				parts = append(parts, "host "+*e.Hostname)
			}
			ends = append(ends, strings.Join(parts, ","))
		}
		sort.Strings(ends)
		out = append(out, fmt.Sprintf("%s %v %v", s.AddressType, ports, ends))
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func expect(t *testing.T, c *looptest.Cluster, want ...string) {
	t.Helper()
	synctest.Wait()
	if d := cmp.Diff(strings.Join(want, "\n"), show(c)); d != "" {
		t.Errorf("slices (-want +got):\n%s", d)
	}
}

// settle waits for Endpoints too, which lag.
func settle() {
	time.Sleep(2 * time.Second) // the bubble's clock
	synctest.Wait()
}

func TestPodsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), endpoint.Controllers()...)
		s := looptest.Make(c, service())
		expect(t, c, "IPv4 [] []")
		looptest.Make(c, pod("a", "10.1.0.1", true))
		looptest.Make(c, pod("b", "10.1.0.2", false))
		looptest.Make(c, pod("pending", "", false))
		looptest.Make(c, pod("done", "10.1.0.3", false, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
		looptest.Make(c, pod("other", "10.1.0.4", true, func(p *corev1.Pod) { p.Labels["app"] = "db" }))
		looptest.Make(c, pod("elsewhere", "10.1.0.5", true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 }))
		expect(t, c, "IPv4 [http:8080] [a=10.1.0.1,ready,serving b=10.1.0.2]", "IPv4 [http:9090] [elsewhere=10.1.0.5,ready,serving]")
		sl := c.View.List(resource.EndpointSlices, "d")[0].(*discoveryv1.EndpointSlice)
		if sl.Labels["kubernetes.io/service-name"] != "web" || sl.Labels["team"] != "a" || !strings.HasPrefix(sl.Name, "web-") || sl.OwnerReferences[0].UID != s.UID {
			t.Errorf("slice %+v", sl.ObjectMeta)
		}
		a := looptest.Find[*corev1.Pod](c, resource.Pods, "d", "a")
		looptest.Remove(c, a, "") // it has 30 s to go
		looptest.Edit(c, resource.Pods, "d", "b", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionTrue })
		looptest.Edit(c, resource.Pods, "d", "elsewhere", func(p *corev1.Pod) { p.Labels["app"] = "db" })
		expect(t, c, "IPv4 [http:8080] [a=10.1.0.1,serving,terminating b=10.1.0.2,ready,serving]")
		settle()
		e := looptest.Find[*corev1.Endpoints](c, resource.Endpoints, "d", "web") //nolint:staticcheck // its test
		if len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != 1 || e.Subsets[0].Addresses[0].IP != "10.1.0.2" || e.Subsets[0].Ports[0].Port != 8080 {
			t.Errorf("endpoints %+v", e.Subsets)
		}
		looptest.Remove(c, s, "")
		settle()
		if looptest.Find[*corev1.Endpoints](c, resource.Endpoints, "d", "web") != nil { //nolint:staticcheck // its test
			t.Error("the Endpoints stay though the service is gone")
		}
	})
}

func TestKindsOfServices(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*corev1.Service)
		want   string
	}{
		"headless": {func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = "None", nil }, "IPv4 [] [a=10.1.0.1 host,ready,serving b=10.1.0.2]"},
		"all": {func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true },
			"IPv4 [http:8080] [a=10.1.0.1 host,ready,serving b=10.1.0.2,ready]"},
		"number":   {func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(99) }, "IPv4 [http:99] [a=10.1.0.1 host,ready,serving b=10.1.0.2]"},
		"same":     {func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.IntOrString{} }, "IPv4 [http:80] [a=10.1.0.1 host,ready,serving b=10.1.0.2]"},
		"no port":  {func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("x") }, "IPv4 [] [a=10.1.0.1 host,ready,serving b=10.1.0.2]"},
		"six":      {func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, "IPv6 [] []"},
		"external": {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, ""},
		"by hand":  {func(s *corev1.Service) { s.Spec.Selector = nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := looptest.Run(t, fake.New(), endpoint.Controllers()...)
				looptest.Make(c, pod("a", "10.1.0.1", true, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "host", "web" }))
				looptest.Make(c, pod("b", "10.1.0.2", false))
				looptest.Make(c, service(tt.change))
				synctest.Wait()
				if got := strings.ReplaceAll(show(c), ",host host", " host"); sorted(got) != sorted(tt.want) {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			})
		})
	}
}

func sorted(s string) string {
	f := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '[' || r == ']' })
	slices.Sort(f)
	return strings.Join(f, " ")
}

// TestSlicesAgreeWithPods drives a service with hundreds of pods at random: at rest every pod
// with an address is in exactly one slice, no slice is too big, and no write was needless.
func TestSlicesAgreeWithPods(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var problem string
		synctest.Test(t, func(t *testing.T) {
			c := looptest.Run(t, fake.New(), endpoint.Controllers()...)
			looptest.Make(c, service())
			alive := map[string]bool{}
			next := 0
			for range rapid.IntRange(1, 4).Draw(rt, "rounds") {
				for range rapid.IntRange(0, 60).Draw(rt, "born") {
					name := fmt.Sprintf("p%03d", next)
					next++
					looptest.Make(c, pod(name, fmt.Sprintf("10.1.%d.%d", next/250, next%250+1), true))
					alive[name] = true
				}
				for name := range alive {
					if rapid.IntRange(0, 2).Draw(rt, "fate") == 0 {
						looptest.Edit(c, resource.Pods, "d", name, func(p *corev1.Pod) { p.Labels["app"] = "gone" })
						delete(alive, name)
					}
				}
				if rapid.Bool().Draw(rt, "wait") {
					synctest.Wait()
				}
			}
			looptest.Settle(c)
			got := map[string]int{}
			total := 0
			for _, o := range c.View.List(resource.EndpointSlices, "d") {
				s := o.(*discoveryv1.EndpointSlice)
				if len(s.Endpoints) > endpoint.MaxPerSlice {
					problem = fmt.Sprintf("a slice of %d", len(s.Endpoints))
				}
				if len(s.Endpoints) == 0 && len(alive) > 0 {
					problem = "an empty slice beside others"
				}
				for _, e := range s.Endpoints {
					got[e.TargetRef.Name]++
					total++
				}
			}
			for name := range alive {
				if got[name] != 1 {
					problem = fmt.Sprintf("%s is in %d slices", name, got[name])
				}
			}
			if total != len(alive) {
				problem = fmt.Sprintf("%d endpoints for %d pods", total, len(alive))
			}
			settle()
			writes := c.Revision()
			looptest.Edit(c, resource.Services, "d", "web", func(s *corev1.Service) { s.Annotations = map[string]string{"note": "x"} })
			settle()
			if c.Revision() != writes+1 {
				problem = "a look at what is right wrote something"
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

// TestAddressesThatNodesReport: what a node says of one pod's address does not take the endpoints of others from a service.
func TestAddressesThatNodesReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), endpoint.Controllers()...)
		looptest.Make(c, service())
		looptest.Make(c, pod("good", "10.1.0.1", true))
		for i, ip := range []string{"127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "::1", "fe80::1%eth0", "::ffff:127.0.0.1", "nonsense"} {
			looptest.Make(c, pod(fmt.Sprint("bad-", i), ip, true))
		}
		expect(t, c, "IPv4 [http:8080] [good=10.1.0.1,ready,serving]")
		settle()
		e := looptest.Find[*corev1.Endpoints](c, resource.Endpoints, "d", "web") //nolint:staticcheck // its test
		if len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != 1 {
			t.Errorf("endpoints %+v", e.Subsets)
		}
	})
}

// TestAwaited: a slice names the pods that become ready while others of the service are of another revision, for as long as a rollout
// may wait for them, and no others.
func TestAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), endpoint.Controllers()...)
		looptest.Make(c, service())
		of := func(hash string) func(*corev1.Pod) {
			return func(p *corev1.Pod) { p.Labels["pod-template-hash"] = hash }
		}
		ready := func(p *corev1.Pod) {
			p.Status.Conditions[0].Status, p.Status.Conditions[0].LastTransitionTime = corev1.ConditionTrue, metav1.Now()
		}
		awaited := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, o := range c.View.List(resource.EndpointSlices, "d") {
				got = append(got, drain.Awaits(o.(*discoveryv1.EndpointSlice))...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("awaited %q, want %q", got, want)
			}
		}
		looptest.Make(c, pod("old-1", "10.1.0.1", true, of("old"), ready))
		looptest.Make(c, pod("old-2", "10.1.0.2", true, of("old"), ready))
		awaited()
		looptest.Make(c, pod("new-1", "10.1.0.3", false, of("new")))
		awaited()
		looptest.Edit(c, resource.Pods, "d", "new-1", ready)
		awaited("new-1")
		time.Sleep(time.Second)
		looptest.Make(c, pod("new-2", "10.1.0.4", true, of("new"), ready))
		awaited("new-1", "new-2")
		time.Sleep(1500 * time.Millisecond)
		looptest.Edit(c, resource.Pods, "d", "old-1", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse })
		awaited("new-2")
		time.Sleep(time.Minute)
		looptest.Edit(c, resource.Pods, "d", "old-1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
		looptest.Edit(c, resource.Pods, "d", "old-2", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
		looptest.Make(c, pod("new-3", "10.1.0.5", true, of("new"), ready))
		awaited()
	})
}
