package container

import (
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The paths hidden from and read-only for an unprivileged container whose procMount is Default.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// ImageUser is who an image wants to run as.
type ImageUser struct {
	// UID is nil when the image names a user, or says nothing of it.
	UID  *int64
	Name string
}

// effective is a container's security context with the pod's beneath it.
type effective struct {
	user, group *int64
	nonRoot     bool
	seccomp     *corev1.SeccompProfile
	apparmor    *corev1.AppArmorProfile
	selinux     *corev1.SELinuxOptions
}

func effectiveContext(pod *corev1.Pod, c *corev1.Container) effective {
	var e effective
	if p := pod.Spec.SecurityContext; p != nil {
		e = effective{user: p.RunAsUser, group: p.RunAsGroup, seccomp: p.SeccompProfile, apparmor: p.AppArmorProfile, selinux: p.SELinuxOptions}
		e.nonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
	}
	s := c.SecurityContext
	if s == nil {
		return e
	}
	if s.RunAsUser != nil {
		e.user = s.RunAsUser
	}
	if s.RunAsGroup != nil {
		e.group = s.RunAsGroup
	}
	if s.RunAsNonRoot != nil {
		e.nonRoot = *s.RunAsNonRoot
	}
	if s.SeccompProfile != nil {
		e.seccomp = s.SeccompProfile
	}
	if s.AppArmorProfile != nil {
		e.apparmor = s.AppArmorProfile
	}
	if s.SELinuxOptions != nil {
		e.selinux = s.SELinuxOptions
	}
	return e
}

// VerifyNonRoot refuses a container that must not run as root and would, or might.
func VerifyNonRoot(pod *corev1.Pod, c *corev1.Container, image ImageUser) error {
	e := effectiveContext(pod, c)
	if !e.nonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
	switch {
	case e.user != nil && *e.user == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case e.user != nil:
		return nil
	case image.UID != nil && *image.UID != 0:
		return nil
	case image.Name != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.Name, where)
	}
	return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
}

func security(pod *corev1.Pod, c *corev1.Container, image ImageUser, seccompStore string) *runtimeapi.LinuxContainerSecurityContext {
	e := effectiveContext(pod, c)
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(pod), SupplementalGroups: groups(pod), SupplementalGroupsPolicy: groupsPolicy(pod),
		MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths, SelinuxOptions: selinux(e.selinux), Apparmor: apparmor(e.apparmor),
	}
	switch {
	case e.user != nil:
		out.RunAsUser = &runtimeapi.Int64Value{Value: *e.user}
	case image.UID != nil:
		out.RunAsUser = &runtimeapi.Int64Value{Value: *image.UID}
	case image.Name != "":
		out.RunAsUsername = image.Name
	case e.group != nil:
		// CRI takes no group without a user: this is who the container is anyway.
		out.RunAsUser = &runtimeapi.Int64Value{Value: 0}
	}
	if e.group != nil {
		out.RunAsGroup = &runtimeapi.Int64Value{Value: *e.group}
	}
	if s := c.SecurityContext; s != nil {
		out.Privileged = s.Privileged != nil && *s.Privileged
		out.ReadonlyRootfs = s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
		out.NoNewPrivs = s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation
		if caps := s.Capabilities; caps != nil {
			out.Capabilities = &runtimeapi.Capability{}
			for _, add := range caps.Add {
				out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(add))
			}
			for _, drop := range caps.Drop {
				out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(drop))
			}
		}
		if s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount {
			out.MaskedPaths, out.ReadonlyPaths = nil, nil
		}
	}
	if out.Privileged {
		out.MaskedPaths, out.ReadonlyPaths = nil, nil
	}
	out.Seccomp = seccomp(e.seccomp, out.Privileged, seccompStore)
	return out
}

// seccomp defaults to the runtime's profile: safer than the unconfined of a kubelet that was not
// told otherwise, and what container users expect.
func seccomp(p *corev1.SeccompProfile, privileged bool, store string) *runtimeapi.SecurityProfile {
	switch {
	case privileged, p != nil && p.Type == corev1.SeccompProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case p != nil && p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		return &runtimeapi.SecurityProfile{
			ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(store, *p.LocalhostProfile),
		}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

func apparmor(p *corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	if p == nil {
		return nil
	}
	switch p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case corev1.AppArmorProfileTypeLocalhost:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

func selinux(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func namespaces(pod *corev1.Pod) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		o.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		o.Pid = runtimeapi.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		o.Pid = runtimeapi.NamespaceMode_POD
	}
	if OwnUsers(pod) {
		// Without a mapping every runtime refuses this: never is such a pod run as the machine's own users.
		o.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
	}
	return o
}

// OwnUsers says whether a pod is to have users of its own (KEP-127).
func OwnUsers(pod *corev1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

// UsersFrom maps the users and groups 0 to count-1 of a pod onto those of the machine from first on.
func UsersFrom(first, count uint32) *runtimeapi.UserNamespace {
	ids := []*runtimeapi.IDMapping{{HostId: first, Length: count}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
}

// mapUsers gives namespaces of a pod with users of its own the mapping of those.
func mapUsers(o *runtimeapi.NamespaceOption, users *runtimeapi.UserNamespace) {
	if o.UsernsOptions != nil && users != nil {
		o.UsernsOptions = users
	}
}

// groups are the pod's supplemental groups, the volumes' group among them.
func groups(pod *corev1.Pod) []int64 {
	s := pod.Spec.SecurityContext
	if s == nil {
		return nil
	}
	out := append([]int64{}, s.SupplementalGroups...)
	if s.FSGroup != nil {
		out = append(out, *s.FSGroup)
	}
	return out
}

func groupsPolicy(pod *corev1.Pod) runtimeapi.SupplementalGroupsPolicy {
	s := pod.Spec.SecurityContext
	if s != nil && s.SupplementalGroupsPolicy != nil && *s.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

func sandboxSecurity(pod *corev1.Pod, seccompStore string) *runtimeapi.LinuxSandboxSecurityContext {
	out := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(pod), SupplementalGroups: groups(pod), SupplementalGroupsPolicy: groupsPolicy(pod),
	}
	if s := pod.Spec.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			out.RunAsUser = &runtimeapi.Int64Value{Value: *s.RunAsUser}
			// CRI takes no group without a user; a pod's containers get theirs by themselves.
			if s.RunAsGroup != nil {
				out.RunAsGroup = &runtimeapi.Int64Value{Value: *s.RunAsGroup}
			}
		}
		out.SelinuxOptions = selinux(s.SELinuxOptions)
		out.Seccomp = seccomp(s.SeccompProfile, false, seccompStore)
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged {
				out.Privileged = true
			}
		}
	}
	return out
}
