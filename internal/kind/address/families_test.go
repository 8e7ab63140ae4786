package address

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

const (
	single  = corev1.IPFamilyPolicySingleStack
	prefer  = corev1.IPFamilyPolicyPreferDualStack
	require = corev1.IPFamilyPolicyRequireDualStack
)

// asked is a Service: its policy (- for none), its families and its cluster IPs, and "headless" or "selectorless".
func asked(text string) *corev1.Service {
	svc := &corev1.Service{}
	svc.Name, svc.Spec.Type = "web", corev1.ServiceTypeClusterIP
	svc.Spec.Selector = map[string]string{"app": "web"}
	for _, word := range strings.Fields(text) {
		switch word {
		case string(single), string(prefer), string(require):
			svc.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicy(word))
		case "4":
			svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPv4Protocol)
		case "6":
			svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPv6Protocol)
		case "headless":
			svc.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
		case "selectorless":
			svc.Spec.Selector = nil
		case "external":
			svc.Spec.Type = corev1.ServiceTypeExternalName
		default:
			svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, word)
		}
	}
	if len(svc.Spec.ClusterIPs) > 0 {
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	}
	return svc
}

// given is what came of it: policy, families, and the families of the cluster IPs, or the address that was asked for.
func given(svc *corev1.Service, was string) string {
	out := []string{string(ptr.Deref(svc.Spec.IPFamilyPolicy, "-"))}
	for _, f := range svc.Spec.IPFamilies {
		out = append(out, strings.TrimPrefix(string(f), "IPv"))
	}
	for _, text := range svc.Spec.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		switch {
		case err != nil, strings.Contains(was, text):
			out = append(out, text)
		default:
			out = append(out, "in-"+strings.TrimPrefix(string(familyOf(ip)), "IPv"))
		}
	}
	return strings.Join(out, " ")
}

func dualBook(t testing.TB, ranges ...string) *Services {
	t.Helper()
	var all []netip.Prefix
	for _, r := range ranges {
		all = append(all, netip.MustParsePrefix(r))
	}
	book, err := New(all[0], [2]int{}, all[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return book
}

// TestFamiliesOnCreate: what a Service gets of what it asks for, on clusters of one family and of two.
func TestFamiliesOnCreate(t *testing.T) {
	const v4, v46, v64 = "10.96.0.0/16", "10.96.0.0/16 fd00:96::/112", "fd00:96::/112 10.96.0.0/16"
	for _, c := range []struct{ cluster, asks, want string }{
		{v4, "", "SingleStack 4 in-4"},
		{v4, "PreferDualStack", "PreferDualStack 4 in-4"},
		{v4, "RequireDualStack", "error spec.ipFamilyPolicy: this cluster is not configured for dual-stack services"},
		{v4, "6", "error spec.ipFamilies[0]: not configured on this cluster"},
		{v4, "PreferDualStack 4 6", "error spec.ipFamilies[1]: not configured on this cluster"},
		{v4, "fd00:96::1", "error spec.clusterIPs[0]: IPv6 is not configured on this cluster"},
		{v4, "headless selectorless", "RequireDualStack 4 6 None"},
		{v4, "headless", "SingleStack 4 None"},
		{v46, "", "SingleStack 4 in-4"},
		{v64, "", "SingleStack 6 in-6"},
		{v46, "6", "SingleStack 6 in-6"},
		{v46, "PreferDualStack", "PreferDualStack 4 6 in-4 in-6"},
		{v64, "PreferDualStack", "PreferDualStack 6 4 in-6 in-4"},
		{v46, "PreferDualStack 6", "PreferDualStack 6 4 in-6 in-4"},
		{v46, "RequireDualStack 6 4", "RequireDualStack 6 4 in-6 in-4"},
		{v46, "4 6", "error spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"},
		{v46, "SingleStack 4 6", "error spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"},
		{v46, "10.96.0.9 fd00:96::9", "error spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"},
		{v46, "RequireDualStack 10.96.0.9 fd00:96::9", "RequireDualStack 4 6 10.96.0.9 fd00:96::9"},
		{v46, "PreferDualStack fd00:96::9", "PreferDualStack 6 4 fd00:96::9 in-4"},
		{v46, "fd00:96::9", "SingleStack 6 fd00:96::9"},
		{v46, "fd00:97::9", "error spec.clusterIPs: failed to allocate IP fd00:97::9: the provided IP (fd00:97::9) is not in the valid range. The range of valid IPs is fd00:96::/112"},
		{v46, "headless", "SingleStack 4 None"},
		{v46, "headless PreferDualStack", "PreferDualStack 4 6 None"},
		{v46, "headless selectorless", "RequireDualStack 4 6 None"},
		{v46, "headless selectorless SingleStack", "SingleStack 4 None"},
		{v64, "headless selectorless", "RequireDualStack 6 4 None"},
	} {
		t.Run(c.cluster+" "+c.asks, func(t *testing.T) {
			svc := asked(c.asks)
			finish, err := dualBook(t, strings.Fields(c.cluster)...).Assign(svc, nil, false)
			outcome(t, svc, err, c.asks, c.want)
			if err == nil {
				finish(true)
			}
		})
	}
}

func outcome(t *testing.T, svc *corev1.Service, err error, asks, want string) {
	t.Helper()
	switch rest, fails := strings.CutPrefix(want, "error "); {
	case fails:
		at, message, _ := strings.Cut(rest, ": ")
		if err == nil || !strings.Contains(err.Error(), at+": ") || !strings.Contains(err.Error(), message) {
			t.Errorf("%v; want %s", err, want)
		}
	case err != nil:
		t.Error(err)
	default:
		if got := given(svc, asks); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if len(svc.Spec.ClusterIPs) > 0 && svc.Spec.ClusterIP != svc.Spec.ClusterIPs[0] {
			t.Errorf("clusterIP %q, of %v", svc.Spec.ClusterIP, svc.Spec.ClusterIPs)
		}
	}
}

// TestFamiliesOnUpdate: nothing changes between one family and two but by the user's word, and what is given up is given to others.
func TestFamiliesOnUpdate(t *testing.T) {
	const one, two = "SingleStack 4 10.96.0.9", "RequireDualStack 4 6 10.96.0.9 fd00:96::9"
	for _, c := range []struct{ was, asks, want, freed string }{
		{one, "PreferDualStack 4 10.96.0.9", "PreferDualStack 4 6 10.96.0.9 in-6", ""},
		{one, "RequireDualStack 4 10.96.0.9", "RequireDualStack 4 6 10.96.0.9 in-6", ""},
		{one, "RequireDualStack 4 6 10.96.0.9 fd00:96::7", "RequireDualStack 4 6 10.96.0.9 fd00:96::7", ""},
		{one, "SingleStack 4 6 10.96.0.9", "error spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified", ""},
		{one, "4 10.96.0.9", one, ""},
		{two, "SingleStack 4 6 10.96.0.9 fd00:96::9", one, "fd00:96::9"},
		{two, "SingleStack 4 10.96.0.9", one, "fd00:96::9"},
		{two, "RequireDualStack 4 6 10.96.0.9", "error spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary cluster IP", ""},
		{two, "PreferDualStack 4 10.96.0.9 fd00:96::9", "error spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary IP family", ""},
		{two, "PreferDualStack 4 6 10.96.0.9 fd00:96::9", "PreferDualStack 4 6 10.96.0.9 fd00:96::9", ""},
		{two, "10.96.0.9 fd00:96::9", two, ""}, // a manifest that names no policy
		{"PreferDualStack 4 10.96.0.9", "PreferDualStack 4 10.96.0.9", "PreferDualStack 4 10.96.0.9", ""},
		{"SingleStack 4 6 external", "PreferDualStack", "PreferDualStack 4 6 in-4 in-6", ""},
	} {
		t.Run(c.was+" to "+c.asks, func(t *testing.T) {
			book, old, svc := dualBook(t, "10.96.0.0/16", "fd00:96::/112"), asked(c.was), asked(c.asks)
			book.Restore(old)
			finish, err := book.Assign(svc, old, false)
			outcome(t, svc, err, c.asks, c.want)
			if err != nil {
				return
			}
			finish(true)
			again, err := book.Assign(asked("RequireDualStack 10.96.0.200 fd00:96::9"), nil, true)
			if free := err == nil; free != (c.freed == "fd00:96::9" || !strings.Contains(c.was, "fd00:96::9")) {
				t.Errorf("fd00:96::9 is free: %v (%v)", free, err)
			}
			_ = again
		})
	}
}

// TestSecondRangeFull: a range that is full is named.
func TestSecondRangeFull(t *testing.T) {
	book := dualBook(t, "10.96.0.0/16", "fd00:96::/126")
	for i := range 4 {
		finish, err := book.Assign(asked("RequireDualStack"), nil, false)
		if err != nil {
			if i < 3 || !strings.Contains(err.Error(), "no address of fd00:96::/126 is free") {
				t.Errorf("service %d: %v", i, err)
			}
			return
		}
		finish(true)
	}
	t.Error("four services have three addresses")
}

// TestFamiliesSettle: whatever is asked for in whatever order, addresses are taken exactly while a Service has them, and each
// Service has one of each of its families in their order.
func TestFamiliesSettle(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		book := dualBook(t, "10.96.0.0/24", "fd00:96::/120")
		stored := map[string]*corev1.Service{}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			name := fmt.Sprint("s", rapid.IntRange(0, 3).Draw(rt, "name"))
			old := stored[name]
			svc := asked(rapid.SampledFrom([]string{"", string(single), string(prefer), string(require)}).Draw(rt, "policy") + " " +
				rapid.SampledFrom([]string{"", "4", "6", "4 6", "6 4"}).Draw(rt, "families"))
			if old != nil && rapid.Bool().Draw(rt, "delete") {
				book.Release(old)
				delete(stored, name)
				continue
			}
			if old != nil {
				svc.Spec.ClusterIP, svc.Spec.ClusterIPs = old.Spec.ClusterIP, append([]string{}, old.Spec.ClusterIPs...)
				if len(svc.Spec.IPFamilies) > 0 && svc.Spec.IPFamilies[0] != old.Spec.IPFamilies[0] {
					continue // validation refuses it
				}
			}
			finish, err := book.Assign(svc, old, false)
			if err != nil {
				continue
			}
			ok := rapid.Bool().Draw(rt, "stored")
			if finish(ok); ok {
				stored[name] = svc
			}
			if len(svc.Spec.ClusterIPs) != len(svc.Spec.IPFamilies) {
				rt.Fatalf("%v of %v", svc.Spec.ClusterIPs, svc.Spec.IPFamilies)
			}
			for i, text := range svc.Spec.ClusterIPs {
				if familyOf(netip.MustParseAddr(text)) != svc.Spec.IPFamilies[i] {
					rt.Fatalf("%v of %v", svc.Spec.ClusterIPs, svc.Spec.IPFamilies)
				}
			}
		}
		want := map[netip.Addr]bool{}
		for _, svc := range stored {
			for _, text := range svc.Spec.ClusterIPs {
				if ip := netip.MustParseAddr(text); want[ip] {
					rt.Fatalf("%s is given twice", ip)
				} else {
					want[ip] = true
				}
			}
		}
		if len(book.ips.taken) != len(want) {
			rt.Fatalf("%v are taken, %v are had", book.ips.taken, want)
		}
	})
}
