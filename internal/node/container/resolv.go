package container

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DNS is where a cluster's names are answered.
type DNS struct {
	// Domain is the cluster's suffix, such as cluster.local.
	Domain string
	// Servers of the cluster; empty when it has none: then pods use the node's.
	Servers []string
	// Host is the node's own resolver configuration.
	Host ResolvConf
}

// ResolvConf is a parsed resolv.conf(5).
type ResolvConf struct {
	Servers  []string
	Searches []string
	Options  []string
}

// ParseResolvConf reads the lines this package knows and skips others.
func ParseResolvConf(text string) ResolvConf {
	var r ResolvConf
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.Servers = append(r.Servers, fields[1])
		case "search", "domain": // the last one counts
			r.Searches = nil
			for _, domain := range fields[1:] {
				if domain != "." {
					domain = strings.TrimSuffix(domain, ".")
				}
				r.Searches = append(r.Searches, domain)
			}
		case "options":
			r.Options = append(r.Options, fields[1:]...)
		}
	}
	return r
}

// What a resolv.conf may hold: musl and old glibc read no more name servers, and glibc ends on a search path that is
// longer than a name (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#dns-search-domain-list-limits).
const (
	mostServers     = 3
	mostSearches    = 32
	mostSearchBytes = 2048
	mostDomainBytes = 253
)

// Complaint is an event about a pod's DNS configuration.
type Complaint struct{ Reason, Message string }

// clusterFirst says whether a pod wants the cluster's name server; the host's network has the host's, unless it is said.
func clusterFirst(pod *corev1.Pod) bool {
	return pod.Spec.DNSPolicy == corev1.DNSClusterFirstWithHostNet ||
		(pod.Spec.DNSPolicy == corev1.DNSClusterFirst || pod.Spec.DNSPolicy == "") && !pod.Spec.HostNetwork
}

// Config is the DNS configuration of a pod, and what is wrong with it
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy).
func (d DNS) Config(pod *corev1.Pod) (*runtimeapi.DNSConfig, []Complaint) {
	out := &runtimeapi.DNSConfig{}
	var wrong []Complaint
	cluster := clusterFirst(pod)
	if cluster && len(d.Servers) == 0 {
		cluster = false
		wrong = append(wrong, Complaint{"MissingClusterDNS", fmt.Sprintf("kubelet does not have ClusterDNS IP configured and cannot create Pod "+
			"using %q policy. Falling back to %q policy.", corev1.DNSClusterFirst, corev1.DNSDefault)})
	}
	switch {
	case pod.Spec.DNSPolicy == corev1.DNSNone:
	case cluster:
		out.Servers = append(out.Servers, d.Servers...)
		out.Searches = union([]string{pod.Namespace + ".svc." + d.Domain, "svc." + d.Domain, d.Domain}, d.Host.Searches)
		out.Options = append(out.Options, "ndots:5")
	default:
		out.Servers = append(out.Servers, d.Host.Servers...)
		out.Searches = append(out.Searches, d.Host.Searches...)
		out.Options = append(out.Options, d.Host.Options...)
	}
	if extra := pod.Spec.DNSConfig; extra != nil {
		out.Servers = union(out.Servers, extra.Nameservers)
		out.Searches = union(out.Searches, extra.Searches)
		out.Options = mergeOptions(out.Options, extra.Options)
	}
	return out, append(wrong, fit(out)...)
}

// fit cuts a configuration to what resolvers read.
func fit(c *runtimeapi.DNSConfig) (wrong []Complaint) {
	if len(c.Servers) > mostServers {
		c.Servers = c.Servers[:mostServers]
		wrong = append(wrong, Complaint{"DNSConfigForming", "Nameserver limits were exceeded, some nameservers have been omitted, " +
			"the applied nameserver line is: " + strings.Join(c.Servers, " ")})
	}
	before := len(c.Searches)
	if len(c.Searches) > mostSearches {
		c.Searches = c.Searches[:mostSearches]
	}
	c.Searches = slices.DeleteFunc(c.Searches, func(domain string) bool { return len(domain) > mostDomainBytes })
	for len(strings.Join(c.Searches, " ")) > mostSearchBytes {
		c.Searches = c.Searches[:len(c.Searches)-1]
	}
	if len(c.Searches) < before {
		wrong = append(wrong, Complaint{"DNSConfigForming", "Search Line limits were exceeded, some search paths have been omitted, " +
			"the applied search line is: " + strings.Join(c.Searches, " ")})
	}
	return wrong
}

// SearchShortcut is the annotation by which a pod asks, with "off", that each name of its search list be answered for itself.
const SearchShortcut = "coracle.io/dns-search-shortcut"

// Searches is the search list by which the cluster's name server may answer a pod at once for all of it; none where the
// pod does not ask that server, or does not want it.
func (d DNS) Searches(pod *corev1.Pod) []string {
	if len(d.Servers) == 0 || !clusterFirst(pod) || pod.Spec.HostNetwork || pod.Annotations[SearchShortcut] == "off" {
		return nil
	}
	c, _ := d.Config(pod)
	out := make([]string, 0, len(c.Searches))
	for _, domain := range c.Searches {
		out = append(out, strings.ToLower(strings.TrimSuffix(domain, "."))+".")
	}
	return out
}
func union(a, b []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range append(append([]string{}, a...), b...) {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func mergeOptions(base []string, extra []corev1.PodDNSConfigOption) []string {
	out := append([]string{}, base...)
	for _, o := range extra {
		text := o.Name
		if o.Value != nil {
			text += ":" + *o.Value
		}
		replaced := false
		for i, have := range out {
			if name, _, _ := strings.Cut(have, ":"); name == o.Name {
				out[i], replaced = text, true
			}
		}
		if !replaced {
			out = append(out, text)
		}
	}
	return out
}
