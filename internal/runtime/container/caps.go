package container

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultCaps are what containerd and Docker leave a container.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// capNames lists the capabilities by number (linux/capability.h).
var capNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// held returns the capabilities this process may pass on: its permitted set.
// A container cannot get what the runtime does not have.
func held() ([]string, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	var have []string
	for i, n := range capNames {
		if data[i/32].Permitted&(1<<(i%32)) != 0 {
			have = append(have, n)
		}
	}
	return have, nil
}

// capabilities works out a container's sets: all that we hold when it is
// privileged, otherwise the defaults with what is added and dropped.
func capabilities(sc *cri.LinuxContainerSecurityContext) (*specs.LinuxCapabilities, error) {
	have, err := held()
	if err != nil {
		return nil, err
	}
	if sc.GetPrivileged() {
		return sets(have, nil), nil
	}
	add, err := normalizeCaps(sc.GetCapabilities().GetAddCapabilities())
	if err != nil {
		return nil, err
	}
	drop, err := normalizeCaps(sc.GetCapabilities().GetDropCapabilities())
	if err != nil {
		return nil, err
	}
	ambient, err := normalizeCaps(sc.GetCapabilities().GetAddAmbientCapabilities())
	if err != nil {
		return nil, err
	}
	return sets(intersect(chosen(add, drop), have), intersect(ambient, have)), nil
}

// chosen applies drops and additions to the defaults. ALL is applied first,
// so that "drop ALL, add X" and "add ALL, drop X" both mean what they say.
func chosen(add, drop []string) []string {
	set := slices.Clone(defaultCaps)
	if slices.Contains(drop, "ALL") {
		set = nil
	}
	if slices.Contains(add, "ALL") {
		set = slices.Clone(capNames)
	}
	for _, c := range add {
		if c != "ALL" && !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	return slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drop, c) })
}

func sets(caps, ambient []string) *specs.LinuxCapabilities {
	if caps == nil {
		caps = []string{}
	}
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: ambient, Ambient: ambient}
}

func normalizeCaps(list []string) ([]string, error) {
	var out []string
	for _, c := range list {
		n := strings.ToUpper(c)
		if n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if n == "CAP_ALL" {
			n = "ALL"
		}
		if n != "ALL" && !slices.Contains(capNames, n) {
			return nil, fmt.Errorf("unknown capability %q", c)
		}
		out = append(out, n)
	}
	return out, nil
}

func intersect(a, b []string) []string {
	var out []string
	for _, x := range a {
		if slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}
