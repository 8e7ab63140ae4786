// Package sysctl says which kernel parameters a pod may set on a node.
//
// It owns the list of those that are safe, because each belongs to one pod alone and cannot be used to harm another, and
// the node's own additions to it. It is pure, and refuses to set anything: that is the runtime's
// (https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/).
package sysctl

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
)

// Forbidden is the reason of pods that ask for a parameter their node does not allow.
const Forbidden = "SysctlForbidden"

// Safe are the parameters that every node allows.
var Safe = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}

// namespaced are the groups of parameters that the kernel keeps for each network or IPC namespace (namespaces(7),
// ipc_namespaces(7)). A parameter outside them is the whole machine's.
var namespaced = []string{"kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "net."}

// List is what one node allows besides what is safe.
type List struct{ patterns []string }

// Parse reads a node's additions: names, or beginnings of names that end in *, separated by commas. What is not a pod's
// own to set is refused.
func Parse(text string) (List, error) {
	var l List
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		name := sysctl.NormalizeName(part)
		if strings.Contains(strings.TrimSuffix(name, "*"), "*") {
			return List{}, fmt.Errorf("sysctl %q: a * stands at the end, for any name that begins so", part)
		}
		if !slices.ContainsFunc(namespaced, func(group string) bool { return strings.HasPrefix(name, group) }) {
			return List{}, fmt.Errorf("sysctl %q is not a pod's own to set: want kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* or net.*", part)
		}
		l.patterns = append(l.patterns, name)
	}
	slices.Sort(l.patterns)
	return l, nil
}

// String is the list in the form that Parse reads.
func (l List) String() string { return strings.Join(l.patterns, ",") }

// Refuses says why a pod may not run here, in upstream's words; empty when it may.
func (l List) Refuses(pod *corev1.Pod) string {
	if pod.Spec.SecurityContext == nil {
		return ""
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if !l.allows(sysctl.NormalizeName(s.Name)) {
			return fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)
		}
	}
	return ""
}

func (l List) allows(name string) bool {
	return slices.Contains(Safe, name) || slices.ContainsFunc(l.patterns, func(p string) bool {
		beginning, any := strings.CutSuffix(p, "*")
		return p == name || any && strings.HasPrefix(name, beginning)
	})
}
