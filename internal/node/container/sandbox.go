// Package container turns a pod and its containers into what a CRI runtime is asked for:
// environment, command, mounts, security context, cgroup settings, names and name servers.
//
// It owns the reading of the pod's spec; everything here is computed from values, except that
// references to ConfigMaps and Secrets are followed through a Lookup. It refuses to talk to the
// runtime (package node) and to make volumes ready (package volume).
package container

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
	"coracle/internal/node/podsync"
)

// Hostname returns the pod's host name and, under a headless service, its domain
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-hostname-and-subdomain-field).
func Hostname(pod *corev1.Pod, domain string) (hostname, fqdn string) {
	hostname = pod.Spec.Hostname
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride, ""
	}
	if hostname == "" {
		hostname = pod.Name
		// A host name has 63 bytes, a pod's name up to 253.
		if len(hostname) > 63 {
			hostname = strings.TrimRight(hostname[:63], "-.")
		}
	}
	if pod.Spec.Subdomain != "" {
		fqdn = fmt.Sprintf("%s.%s.%s.svc.%s", hostname, pod.Spec.Subdomain, pod.Namespace, domain)
	}
	return hostname, fqdn
}

// mostHostname is how long the kernel lets a host name be (sethostname(2)).
const mostHostname = 64

// HostnameFault says why a pod's host name cannot be set; empty when it can
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-sethostnameasfqdn-field).
func HostnameFault(pod *corev1.Pod, domain string) string {
	_, fqdn := Hostname(pod, domain)
	if pod.Spec.SetHostnameAsFQDN == nil || !*pod.Spec.SetHostnameAsFQDN || pod.Spec.HostNetwork || len(fqdn) <= mostHostname {
		return ""
	}
	return fmt.Sprintf("Failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long "+
		"(%d characters is the max, %d characters requested)", fqdn, mostHostname, len(fqdn))
}

// Hosts is the content of the pod's /etc/hosts
// (https://kubernetes.io/docs/tasks/network/customize-hosts-file-for-pods/).
func Hosts(pod *corev1.Pod, domain string, podIPs []string) []byte {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	hostname, fqdn := Hostname(pod, domain)
	names := hostname
	if fqdn != "" {
		names = fqdn + "\t" + hostname
	}
	for _, ip := range podIPs {
		fmt.Fprintf(&b, "%s\t%s\n", ip, names)
	}
	return append([]byte(b.String()), aliases(pod)...)
}

// HostNetworkHosts is the node's /etc/hosts with the pod's aliases.
func HostNetworkHosts(pod *corev1.Pod, node []byte) []byte {
	return append([]byte("# Kubernetes-managed hosts file (host network).\n"+string(node)), aliases(pod)...)
}

func aliases(pod *corev1.Pod) string {
	if len(pod.Spec.HostAliases) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n# Entries added by HostAliases.\n")
	for _, a := range pod.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.String()
}

// LogDir returns the directory of a pod's container logs under root.
func LogDir(root, namespace, name, uid string) string {
	return filepath.Join(root, namespace+"_"+name+"_"+uid)
}

// LogPath returns a container attempt's log file, relative to the pod's log directory.
func LogPath(container string, attempt uint32) string {
	return filepath.Join(container, fmt.Sprintf("%d.log", attempt))
}

// SandboxOptions are the node's part of a sandbox.
type SandboxOptions struct {
	Attempt      uint32
	LogRoot      string
	CgroupRoot   string
	Domain       string // of the cluster
	Resolv       *runtimeapi.DNSConfig
	QOS          corev1.PodQOSClass
	SeccompStore string // where Localhost profiles are
	// Users are the pod's own, where it has some.
	Users *runtimeapi.UserNamespace
}

// Sandbox returns the configuration of a pod's sandbox.
func Sandbox(pod *corev1.Pod, o SandboxOptions) *runtimeapi.PodSandboxConfig {
	hostname, fqdn := Hostname(pod, o.Domain)
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && fqdn != "" {
		hostname = fqdn
	}
	if pod.Spec.HostNetwork && pod.Spec.HostnameOverride == nil {
		hostname = "" // the node's
	}
	labels := map[string]string{}
	for k, v := range pod.Labels {
		labels[k] = v
	}
	for k, v := range identity(pod) {
		labels[k] = v
	}
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Uid: string(pod.UID), Namespace: pod.Namespace, Attempt: o.Attempt},
		Hostname:     hostname,
		LogDirectory: LogDir(o.LogRoot, pod.Namespace, pod.Name, string(pod.UID)),
		DnsConfig:    o.Resolv,
		PortMappings: ports(pod),
		Labels:       labels,
		Annotations:  pod.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    CgroupParent(o.CgroupRoot, pod, o.QOS),
			SecurityContext: sandboxSecurity(pod, o.SeccompStore),
			Sysctls:         sysctls(pod),
			Resources:       PodResources(pod),
			Overhead:        overhead(pod),
		},
	}
	mapUsers(cfg.Linux.SecurityContext.NamespaceOptions, o.Users)
	return cfg
}

func identity(pod *corev1.Pod) map[string]string {
	return map[string]string{cri.PodName: pod.Name, cri.PodNamespace: pod.Namespace, cri.PodUID: string(pod.UID)}
}

func ports(pod *corev1.Pod) []*runtimeapi.PortMapping {
	if pod.Spec.HostNetwork {
		return nil
	}
	var out []*runtimeapi.PortMapping
	serving := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if podsync.IsSidecar(&c) {
			serving = append(serving, c)
		}
	}
	for _, c := range serving {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			protocol := runtimeapi.Protocol_value[string(p.Protocol)] // TCP where empty
			out = append(out, &runtimeapi.PortMapping{
				Protocol: runtimeapi.Protocol(protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	}
	return out
}

func sysctls(pod *corev1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil || len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		out[s.Name] = s.Value
	}
	return out
}
