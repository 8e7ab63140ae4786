package serviceip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
)

// Finalizer keeps a ServiceCIDR for as long as addresses of it are in use.
const Finalizer = "networking.k8s.io/service-cidr-finalizer"

// settling is for how long a range that gives no addresses any more is kept: writes that had one before come to an end.
const settling = time.Second

// waitingRanges asks for the ranges that wait for an address to be given up.
func waitingRanges(r object.Reader, before, after object.Object) []object.Key {
	if before == nil || after != nil && len(addressesOf(before)) == len(addressesOf(after)) {
		return nil
	}
	return going(r)
}

// leaving asks for the ranges that go when another comes, which may have their addresses.
func leaving(r object.Reader, _, _ object.Object) []object.Key { return going(r) }

func going(r object.Reader) []object.Key {
	var keys []object.Key
	for _, o := range r.List(resource.ServiceCIDRs, "") {
		if o.GetDeletionTimestamp() != nil {
			keys = append(keys, object.KeyOf(o))
		}
	}
	return keys
}

// moved asks for all ranges when a node's addresses change, or which ranges it leaves alone.
func moved(r object.Reader, before, after object.Object) []object.Key {
	if fmt.Sprint(nodeAddresses(before), leftBy(before)) == fmt.Sprint(nodeAddresses(after), leftBy(after)) {
		return nil
	}
	var keys []object.Key
	for _, o := range r.List(resource.ServiceCIDRs, "") {
		keys = append(keys, object.KeyOf(o))
	}
	return keys
}

func nodeAddresses(o object.Object) []netip.Addr {
	n, ok := o.(*corev1.Node)
	if !ok || n == nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) {
			out = append(out, ip)
		}
	}
	return out
}

// planRange says of a ServiceCIDR whether addresses are given from it, and lets it go when none is in use.
func (cfg Config) planRange(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.ServiceCIDRs, "", in.Key.Name)
	if !ok || in.Key.Name == servicerange.Own {
		return plan.Plan{} // the server itself sees to the cluster's own
	}
	c := o.(*networkingv1.ServiceCIDR)
	held := slices.Contains(c.Finalizers, Finalizer)
	switch {
	case c.DeletionTimestamp != nil && held:
		return release(in, c)
	case c.DeletionTimestamp != nil:
		return plan.Plan{}
	case !held:
		next := c.DeepCopy()
		next.Finalizers = append(next.Finalizers, Finalizer)
		return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: "it must not go while services have addresses of it"}}}
	}
	reason, message := cfg.judge(in.Reader, c)
	if reason == "" {
		return tellOfLeft(in, c, say(in, c, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready"))
	}
	p := say(in, c, metav1.ConditionFalse, reason, message)
	p.Why = plan.Why{State: plan.Stuck, Waits: []plan.Wait{{
		Reason: reason, Message: message, Hint: "delete the ServiceCIDR, and create one with another range",
	}}}
	return p
}

// tellOfLeft tells of nodes from which a range's addresses lead nowhere: their machines reach others by them. That is not for the
// range as a whole to be less ready: other nodes lead it.
func tellOfLeft(in plan.Input, c *networkingv1.ServiceCIDR, p plan.Plan) plan.Plan {
	var names []string
	var route netip.Prefix
	for _, o := range in.Reader.List(resource.Nodes, "") {
		for _, l := range leftBy(o) {
			if slices.ContainsFunc(servicerange.Of(c), func(r netip.Prefix) bool { return r == l.Range }) {
				names, route = append(names, o.GetName()), l.Route
				break
			}
		}
	}
	if len(names) == 0 {
		return p
	}
	message := fmt.Sprintf("its addresses lead nowhere from nodes %s: their machines reach others by them (a route to %s)", strings.Join(names, ", "), route)
	p.Events = append(p.Events, plan.Event{Regarding: object.RefOf(c), Type: corev1.EventTypeWarning, Reason: "RangeLeftAlone", Message: message})
	p.Why = plan.Why{State: plan.Waiting, Waits: []plan.Wait{{
		Reason: "RangeLeftAlone", Message: message,
		Hint: fmt.Sprintf("remove that route where nothing needs it (ip route del %s) and restart the node's agent, or create a ServiceCIDR with another range", route),
	}}}
	return p
}

func leftBy(o object.Object) []servicerange.Left {
	if n, ok := o.(*corev1.Node); ok && n != nil {
		return servicerange.LeftBy(n)
	}
	return nil
}

// say has a ServiceCIDR tell whether it is ready, unless it does.
func say(in plan.Input, c *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) plan.Plan {
	if had := apimeta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady); had != nil &&
		had.Status == status && had.Reason == reason && had.Message == message {
		return plan.Plan{}
	}
	next := c.DeepCopy()
	apimeta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(in.Now),
	})
	return plan.Plan{Status: next}
}

// unusable are ranges whose addresses mean something else (RFC 6890).
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/8"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// judge says why no addresses are given from a range. What nodes would refuse the traffic of is not to be anybody's else.
func (cfg Config) judge(r object.Reader, c *networkingv1.ServiceCIDR) (reason, message string) {
	served := false
	for _, p := range servicerange.Of(c) {
		if !p.Addr().Is4() && !cfg.IPv6 {
			continue
		}
		served = true
		if least := p.Addr().BitLen() - 2; p.Bits() > least {
			return "TooSmall", fmt.Sprintf("%s has no room for a service: use at least a /%d", p, least)
		}
		for _, t := range append(slices.Clone(unusable), cfg.Taken...) {
			if t.Overlaps(p) {
				return "Overlaps", fmt.Sprintf("%s has addresses of %s, which is in use otherwise", p, t)
			}
		}
		for _, o := range r.List(resource.Nodes, "") {
			if nodestate.Simulated(o.(*corev1.Node)) {
				continue
			}
			for _, ip := range nodeAddresses(o) {
				if p.Contains(ip) {
					return "Overlaps", fmt.Sprintf("%s has the address %s of node %s", p, ip, o.GetName())
				}
			}
		}
	}
	if !served {
		return "FamilyNotServed", "the services of this cluster have IPv4 addresses alone, and of " + words(servicerange.Of(c)) + " none is"
	}
	return "", ""
}

// release lets a ServiceCIDR go when nobody has an address that no other range gives.
func release(in plan.Input, c *networkingv1.ServiceCIDR) plan.Plan {
	user, used := userOf(in.Reader, c)
	if used {
		p := say(in, c, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating,
			"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
		p.Why = plan.Why{State: plan.Waiting, Next: "let the range go", Waits: []plan.Wait{{
			Reason: "InUse", Since: c.DeletionTimestamp.Time, Message: user.String() + " has an address of it",
			Hint: "delete it, or create a ServiceCIDR that has the address too",
		}}}
		return p
	}
	p := say(in, c, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating, "The ServiceCIDR is being deleted")
	if p.Status != nil {
		return p // then no address is given from it any more
	}
	ready := apimeta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	if since := ready.LastTransitionTime.Add(settling); in.Now.Before(since) {
		return plan.Plan{Again: since}
	}
	next := c.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == Finalizer })
	unused := plan.Empty{Kinds: []resource.Resource{resource.Services}, Match: func(o object.Object) bool {
		return slices.ContainsFunc(addressesOf(o), func(ip netip.Addr) bool { return within(c, ip) && !elsewhere(in.Reader, c, ip) })
	}}
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, When: []plan.Guard{unused}, Because: "nobody has an address of it"}}}
}

// userOf finds a service, or an IPAddress, with an address that a range alone has.
func userOf(r object.Reader, c *networkingv1.ServiceCIDR) (object.Ref, bool) {
	alone := func(ip netip.Addr) bool { return within(c, ip) && !elsewhere(r, c, ip) }
	for _, o := range r.List(resource.Services, "") {
		if slices.ContainsFunc(addressesOf(o), alone) {
			return object.RefOf(o), true
		}
	}
	for _, o := range r.List(resource.IPAddresses, "") {
		if ip, err := netip.ParseAddr(o.GetName()); err == nil && alone(ip) {
			return object.RefOf(o), true
		}
	}
	return object.Ref{}, false
}

func within(c *networkingv1.ServiceCIDR, ip netip.Addr) bool {
	return slices.ContainsFunc(servicerange.Of(c), func(p netip.Prefix) bool { return p.Contains(ip) })
}

// elsewhere says whether another range that stays has an address too.
func elsewhere(r object.Reader, c *networkingv1.ServiceCIDR, ip netip.Addr) bool {
	return slices.ContainsFunc(r.List(resource.ServiceCIDRs, ""), func(o object.Object) bool {
		other := o.(*networkingv1.ServiceCIDR)
		return other.Name != c.Name && servicerange.Gives(other) && within(other, ip)
	})
}
