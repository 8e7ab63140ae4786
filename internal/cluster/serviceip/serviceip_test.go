package serviceip_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"coracle/internal/client"
	"coracle/internal/client/fake"
	"coracle/internal/cluster/serviceip"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
)

func run(t *testing.T) *looptest.Cluster {
	return looptest.Run(t, fake.New(), serviceip.Controllers(serviceip.Config{Taken: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})...)
}

// TestTwoFamilies: each cluster IP of a service has an IPAddress of its family, and IPv6 ranges are ready where services have
// IPv6 addresses; a range that a node leaves alone is ready, and it is told of.
func TestTwoFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), serviceip.Controllers(serviceip.Config{
			Taken: []netip.Prefix{netip.MustParsePrefix("fd00:244::/56")}, IPv6: true,
		})...)
		s := service("web", "10.96.0.9")
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00:96::9")
		looptest.Make(c, s)
		expect(t, c, "10.96.0.9 of d/web, fd00:96::9 of d/web")
		if a := looptest.Find[*networkingv1.IPAddress](c, resource.IPAddresses, "", "fd00:96::9"); a == nil || a.Labels[networkingv1.LabelIPAddressFamily] != "IPv6" {
			t.Errorf("%+v", a)
		}
		for text, want := range map[string]string{
			"fd00:97::/112": "True", "fd00:97::/126": "True", "fd00:97::/127": "False TooSmall", "fd00:244::/64": "False Overlaps",
			"fd01:1::/112": "True", "fe80::/112": "False Overlaps", "ff02::/112": "False Overlaps", "10.97.0.0/16 fd00:98::/112": "True",
		} {
			name := strings.NewReplacer("/", "-", ":", "-", ".", "-", " ", "-").Replace("r" + text)
			looptest.Make(c, cidr(name, strings.Fields(text)...))
			if got := readiness(c, name); got != want {
				t.Errorf("%s is ready: %s, want %s", text, got, want)
			}
		}
		looptest.Make(c, cidr("left", "10.99.0.0/16"))
		looptest.Make(c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
			Type: servicerange.LeftAlone, Status: corev1.ConditionTrue, Message: servicerange.Message([]servicerange.Left{
				{Range: netip.MustParsePrefix("10.99.0.0/16"), Route: netip.MustParsePrefix("10.99.3.0/24")},
			}),
		}}}})
		if got := readiness(c, "left"); got != "True" {
			t.Errorf("a range that one node leaves alone is ready: %s", got)
		}
		looptest.Rest()
		if got := looptest.Reasons(c, looptest.Find[*networkingv1.ServiceCIDR](c, resource.ServiceCIDRs, "", "left")); !slices.Contains(got, "RangeLeftAlone") {
			t.Errorf("events %v", got)
		}
	})
}

func service(name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
	}}
}

// addresses prints the IPAddresses with whose they are.
func addresses(c *looptest.Cluster) string {
	synctest.Wait()
	var out []string
	for _, o := range c.View.List(resource.IPAddresses, "") {
		a := o.(*networkingv1.IPAddress)
		line := a.Name + " of " + a.Spec.ParentRef.Namespace + "/" + a.Spec.ParentRef.Name
		if servicerange.Reserves(a) {
			line += " reserved"
		}
		out = append(out, line)
	}
	return strings.Join(out, ", ")
}

func expect(t *testing.T, c *looptest.Cluster, want string) {
	t.Helper()
	if got := addresses(c); got != want {
		t.Errorf("addresses %q, want %q", got, want)
	}
}

// TestAddresses: each cluster IP has its IPAddress, as upstream makes it; it goes with the service, and is put right when
// somebody else deletes it or has one that names another. What others manage is left alone.
func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t)
		web := looptest.Make(c, service("web", "10.96.0.9"))
		looptest.Make(c, service("headless", "None"))
		expect(t, c, "10.96.0.9 of d/web")
		a := looptest.Find[*networkingv1.IPAddress](c, resource.IPAddresses, "", "10.96.0.9")
		if a.Labels[networkingv1.LabelManagedBy] != "ipallocator.k8s.io" || a.Labels[networkingv1.LabelIPAddressFamily] != "IPv4" ||
			a.Spec.ParentRef.Resource != "services" || a.Spec.ParentRef.Group != "" {
			t.Errorf("labels %v, parent %+v", a.Labels, a.Spec.ParentRef)
		}
		looptest.Remove(c, a, "")
		expect(t, c, "10.96.0.9 of d/web")
		foreign := a.DeepCopy()
		foreign.ObjectMeta = metav1.ObjectMeta{Name: "10.96.0.77"}
		foreign.Spec.ParentRef.Name = "somebody"
		looptest.Make(c, foreign)
		stray := a.DeepCopy()
		stray.ObjectMeta = metav1.ObjectMeta{Name: "10.96.0.78", Labels: a.Labels}
		looptest.Make(c, stray)
		expect(t, c, "10.96.0.77 of d/somebody reserved, 10.96.0.9 of d/web")
		looptest.Remove(c, looptest.Find[object.Object](c, resource.Services, "d", web.Name), "")
		expect(t, c, "10.96.0.77 of d/somebody reserved")
		looptest.Make(c, service("other", "10.96.0.9"))
		expect(t, c, "10.96.0.77 of d/somebody reserved, 10.96.0.9 of d/other")

		late := looptest.Make(c, service("late", "10.96.0.77"))
		synctest.Wait()
		looptest.Rest()
		if got := looptest.Reasons(c, late); !slices.Contains(got, "IPAddressWrongReference") {
			t.Errorf("events %v", got)
		}
	})
}

// TestAddressesFollow: however services and addresses come and go, in the end each cluster IP has its object, and there is no other.
func TestAddressesFollow(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		got, want := "", ""
		synctest.Test(t, func(t *testing.T) {
			c := run(t)
			for range rapid.IntRange(1, 15).Draw(rt, "steps") {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "service")
				ip := "10.96.0." + rapid.SampledFrom([]string{"1", "2", "3"}).Draw(rt, "ip")
				held := looptest.Find[*corev1.Service](c, resource.Services, "d", name)
				taken := slices.ContainsFunc(stored(t, c), func(o object.Object) bool { return o.(*corev1.Service).Spec.ClusterIP == ip })
				switch {
				case rapid.Bool().Draw(rt, "of the object"):
					synctest.Wait()
					if object := looptest.Find[*networkingv1.IPAddress](c, resource.IPAddresses, "", ip); object != nil {
						looptest.Remove(c, object, "")
					}
				case held != nil:
					looptest.Remove(c, held, "")
				case !taken:
					looptest.Make(c, service(name, ip))
				}
				if rapid.Bool().Draw(rt, "wait") {
					synctest.Wait()
				}
			}
			synctest.Wait()
			time.Sleep(time.Minute) // the bubble's clock: what failed is tried again
			got = addresses(c)
			var all []string
			for _, o := range c.View.List(resource.Services, "d") {
				all = append(all, o.(*corev1.Service).Spec.ClusterIP+" of d/"+o.GetName())
			}
			slices.Sort(all)
			want = strings.Join(all, ", ")
		})
		if got != want {
			rt.Fatalf("addresses %q, want %q", got, want)
		}
	})
}

// stored are the services as they are, and not as the snapshot shows them.
func stored(t *testing.T, c *looptest.Cluster) []object.Object {
	items, _, err := c.List(t.Context(), resource.Services, client.ListOptions{Namespace: "d"})
	if err != nil {
		t.Error(err)
	}
	return items
}

func cidr(name string, ranges ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
}

func readiness(c *looptest.Cluster, name string) string {
	synctest.Wait()
	held := looptest.Find[*networkingv1.ServiceCIDR](c, resource.ServiceCIDRs, "", name)
	if held == nil {
		return "gone"
	}
	ready := apimeta.FindStatusCondition(held.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	if ready == nil {
		return "not told"
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s", ready.Status, ready.Reason))
}

// TestRanges: a range is ready unless its addresses mean something else.
func TestRanges(t *testing.T) {
	for text, want := range map[string]string{
		"10.97.0.0/16": "True", "10.97.0.0/30": "True", "10.97.0.0/31": "False TooSmall", "fd00::/112": "False FamilyNotServed",
		"10.244.7.0/24": "False Overlaps", "10.0.0.0/8": "False Overlaps", "0.0.0.0/0": "False Overlaps", "127.1.0.0/16": "False Overlaps",
		"239.0.0.0/16": "False Overlaps", "192.0.2.0/24": "False Overlaps", "10.97.0.0/16 fd00::/112": "True",
	} {
		t.Run(strings.ReplaceAll(text, "/", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := run(t)
				looptest.Make(c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
					Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}},
				}})
				synctest.Wait()
				looptest.Make(c, cidr("more", strings.Fields(text)...))
				if got := readiness(c, "more"); got != want {
					t.Errorf("ready: %s, want %s", got, want)
				}
			})
		})
	}
}

// TestRangeLeaves: a range that is deleted gives no address any more, and stays until nobody has one that it alone has.
func TestRangeLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t)
		looptest.Make(c, cidr("more", "10.97.0.0/24"))
		if got := readiness(c, "more"); got != "True" {
			t.Fatal(got)
		}
		web := looptest.Make(c, service("web", "10.97.0.9"))
		synctest.Wait()
		looptest.Remove(c, looptest.Find[object.Object](c, resource.ServiceCIDRs, "", "more"), "")
		if got := readiness(c, "more"); got != "False Terminating" {
			t.Errorf("ready: %s", got)
		}
		time.Sleep(time.Minute) // the bubble's clock
		if got := readiness(c, "more"); got != "False Terminating" {
			t.Errorf("after a minute: %s", got)
		}
		looptest.Remove(c, web, "")
		time.Sleep(time.Minute) // the bubble's clock
		if got := readiness(c, "more"); got != "gone" {
			t.Errorf("when nobody has an address of it: %s", got)
		}

		looptest.Make(c, cidr("one", "10.97.0.0/24"))
		synctest.Wait()
		looptest.Make(c, service("web", "10.97.0.9"))
		synctest.Wait()
		looptest.Remove(c, looptest.Find[object.Object](c, resource.ServiceCIDRs, "", "one"), "")
		looptest.Make(c, cidr("wider", "10.97.0.0/16"))
		time.Sleep(time.Minute) // the bubble's clock
		if got := readiness(c, "one"); got != "gone" {
			t.Errorf("though another range has its addresses: %s", got)
		}
	})
}
