package sysctl

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func asking(names ...string) *corev1.Pod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{}}}
	for _, n := range names {
		pod.Spec.SecurityContext.Sysctls = append(pod.Spec.SecurityContext.Sysctls, corev1.Sysctl{Name: n, Value: "1"})
	}
	return pod
}

// TestRefuses: what is safe may be set, and what the node allows besides; nothing else.
func TestRefuses(t *testing.T) {
	for _, x := range []struct {
		allowed string
		asked   []string
		want    string
	}{
		{"", nil, ""},
		{"", []string{"kernel.shm_rmid_forced", "net.ipv4.tcp_syncookies"}, ""},
		{"", []string{"net/ipv4/ip_unprivileged_port_start"}, ""},
		{"", []string{"net.ipv4.tcp_syncookies", "net.core.somaxconn"}, `forbidden sysctl: "net.core.somaxconn" not allowlisted`},
		{"net.core.somaxconn", []string{"net.core.somaxconn", "net/core/somaxconn"}, ""},
		{"net.core.somaxconn", []string{"net.core.somaxconn2"}, `forbidden sysctl: "net.core.somaxconn2" not allowlisted`},
		{" kernel.msg*, net.ipv6.* ", []string{"kernel.msgmax", "net.ipv6.conf.all.forwarding"}, ""},
		{"kernel.msg*", []string{"kernel.sem"}, `forbidden sysctl: "kernel.sem" not allowlisted`},
		{"net/ipv4/conf/*", []string{"net.ipv4.conf.eth0/1.forwarding"}, ""},
	} {
		l, err := Parse(x.allowed)
		if err != nil {
			t.Errorf("%q: %v", x.allowed, err)
		}
		if got := l.Refuses(asking(x.asked...)); got != x.want {
			t.Errorf("%q, asked for %q: %q, want %q", x.allowed, x.asked, got, x.want)
		}
		if again, err := Parse(l.String()); err != nil || again.String() != l.String() {
			t.Errorf("%q is read again as %q: %v", l, again, err)
		}
	}
	if (List{}).Refuses(&corev1.Pod{}) != "" {
		t.Error("a pod without a security context is refused")
	}
	for _, machine := range []string{"vm.swappiness", "kernel.panic", "*", "kernel.*", "net.*.x", "fs.file-max"} {
		if l, err := Parse(machine); err == nil {
			t.Errorf("%q is allowed: %q", machine, l)
		}
	}
}
