package container

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/cause"
	"coracle/internal/runtime/userns"
)

// Machine says what of the kernel a configuration may count on.
type Machine struct {
	SELinux, AppArmor bool
	// RecursiveReadOnly says that a mount can be made read-only with all mounts below it
	// (mount_setattr(2), Linux 5.12).
	RecursiveReadOnly bool
	// Capabilities that the runtime has and can pass on.
	Capabilities []string
}

// ThisMachine asks the kernel, once.
var ThisMachine = sync.OnceValues(func() (Machine, error) {
	caps, err := held()
	if err != nil {
		return Machine{}, err
	}
	_, selinux := os.Stat("/sys/fs/selinux/enforce")
	apparmor, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	// No such call: ENOSYS. No such descriptor: EBADF.
	err = unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	return Machine{
		SELinux: selinux == nil, AppArmor: strings.HasPrefix(string(apparmor), "Y"),
		RecursiveReadOnly: !errors.Is(err, unix.ENOSYS), Capabilities: caps,
	}, nil
})

// Check refuses a container's configuration that cannot be obeyed to the
// letter in a sandbox so configured. The error names the field. What is neither
// refused here nor when the container is prepared is obeyed.
func Check(c *cri.ContainerConfig, sandbox *cri.PodSandboxConfig, m Machine) error {
	for i, mount := range c.GetMounts() {
		err := checkMount(mount, m)
		if err == nil {
			err = checkMapped(mount, sandbox)
		}
		if err != nil {
			return fmt.Errorf("config.mounts[%d] (%s): %w", i, mount.GetContainerPath(), err)
		}
	}
	sc := c.GetLinux().GetSecurityContext()
	if sc == nil {
		return nil
	}
	in := sandbox.GetLinux().GetSecurityContext()
	for _, part := range []struct {
		field string
		err   error
	}{
		{"privileged", checkPrivileged(sc, in)},
		{"capabilities", checkCapabilities(sc.GetCapabilities(), m)},
		{"namespace_options", checkNamespaces(sc.GetNamespaceOptions(), in.GetNamespaceOptions())},
		{"selinux_options", checkSELinux(sc.GetSelinuxOptions(), m)},
		{"run_as_group", checkUser(sc)},
		{"supplemental_groups", checkGroups(sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy())},
		{"seccomp", checkSeccomp(sc)},
		{"apparmor", checkAppArmor(sc.GetApparmor(), sc.GetPrivileged(), m)},
		{"seccomp_profile_path", notGiven(sc.GetSeccompProfilePath(), "seccomp")},        //nolint:staticcheck // refused, not read
		{"apparmor_profile", notGiven(oldAppArmor(sc.GetApparmorProfile()), "apparmor")}, //nolint:staticcheck // refused, not read
	} {
		if part.err != nil {
			return fmt.Errorf("config.linux.security_context.%s: %w", part.field, part.err)
		}
	}
	return nil
}

// CheckSandbox does for a sandbox's security context what Check does for a
// container's. A sandbox has no process and no root file system that profiles,
// users or groups could be given to: those are checked and have no object.
func CheckSandbox(c *cri.PodSandboxConfig, m Machine) error {
	sc := c.GetLinux().GetSecurityContext()
	for _, part := range []struct {
		field string
		err   error
	}{
		{"namespace_options", checkSandboxNamespaces(sc.GetNamespaceOptions())},
		{"run_as_group", checkGroupAlone(sc.GetRunAsGroup() != nil, sc.GetRunAsUser() != nil)},
		{"run_as_user", checkID(sc.GetRunAsUser())},
		{"run_as_group", checkID(sc.GetRunAsGroup())},
		{"supplemental_groups", checkGroups(sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy())},
		{"selinux_options", checkSELinux(sc.GetSelinuxOptions(), m)},
		{"seccomp_profile_path", notGiven(sc.GetSeccompProfilePath(), "seccomp")}, //nolint:staticcheck // refused, not read
	} {
		if part.err != nil {
			return fmt.Errorf("config.linux.security_context.%s: %w", part.field, part.err)
		}
	}
	return nil
}

func checkMount(mount *cri.Mount, m Machine) error {
	_, propagation := cri.MountPropagation_name[int32(mount.GetPropagation())]
	image := mount.GetImage().GetImage() != ""
	switch {
	case strings.Trim(mount.GetContainerPath(), "/.") == "":
		return errors.New("container_path: give a path below the container's root")
	case image && mount.GetHostPath() != "":
		return errors.New("host_path and image exclude one another")
	case !image && mount.GetHostPath() == "":
		return errors.New("host_path: no source path given")
	case !image && mount.GetImageSubPath() != "":
		return errors.New("image_sub_path without an image")
	case image && !mount.GetReadonly():
		return errors.New("readonly: a mount of an image is read-only, and must say so")
	case !propagation:
		return fmt.Errorf("propagation: %d is not known", mount.GetPropagation())
	case mount.GetSelinuxRelabel() && m.SELinux:
		return errors.New("selinux_relabel: this runtime gives no SELinux labels")
	}
	for _, o := range mount.GetMountOptions() {
		if !slices.Contains(bindOptions, o) {
			return fmt.Errorf("mount_options: %q is none of %s", o, strings.Join(bindOptions, ", "))
		}
	}
	if !mount.GetRecursiveReadOnly() {
		return nil
	}
	switch {
	case !mount.GetReadonly():
		return errors.New("recursive_read_only: needs readonly")
	case mount.GetPropagation() != cri.MountPropagation_PROPAGATION_PRIVATE:
		return errors.New("recursive_read_only: needs private propagation")
	case !m.RecursiveReadOnly:
		return errors.New("recursive_read_only: this kernel cannot (mount_setattr, Linux 5.12)")
	}
	return nil
}

// checkMapped: files are shown to the pod's users under the ids that they have on disk, or as they are. A mount made in
// a user namespace reaches no other one (mount_namespaces(7)).
func checkMapped(mount *cri.Mount, sandbox *cri.PodSandboxConfig) error {
	users := sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	own := users != nil && users.GetMode() == cri.NamespaceMode_POD
	uids, gids := mount.GetUidMappings(), mount.GetGidMappings()
	switch {
	case own && mount.GetPropagation() == cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return &Caused{cause.MountsStayInside,
			errors.New("propagation: BIDIRECTIONAL: what a pod with users of its own (hostUsers: false) mounts does not reach the node")}
	case len(uids)+len(gids) == 0:
		return nil
	case mount.GetImage().GetImage() != "":
		return errors.New("uidMappings, gidMappings: an image's files are the pod's users' without")
	case !own || !userns.Same(uids, users.GetUids()) || !userns.Same(gids, users.GetGids()):
		return errors.New("uidMappings, gidMappings: they are not those of the sandbox")
	}
	return nil
}

// bindOptions are what a bind mount can be given besides. How it is read-only
// and how it propagates have fields of their own.
var bindOptions = []string{
	"nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "nodiratime", "diratime", "relatime", "norelatime",
	"strictatime", "nostrictatime", "nosymfollow", "symfollow",
}

func checkPrivileged(sc *cri.LinuxContainerSecurityContext, sandbox *cri.LinuxSandboxSecurityContext) error {
	if sc.GetPrivileged() && !sandbox.GetPrivileged() {
		return errors.New("the sandbox was not made for privileged containers (its own security_context.privileged is not set)")
	}
	return nil
}

// checkCapabilities refuses names that are not known, and those that the
// runtime does not have: it could not pass them on. ALL means all it has.
func checkCapabilities(c *cri.Capability, m Machine) error {
	if _, err := normalizeCaps(c.GetDropCapabilities()); err != nil {
		return err
	}
	for _, list := range [][]string{c.GetAddCapabilities(), c.GetAddAmbientCapabilities()} {
		names, err := normalizeCaps(list)
		if err != nil {
			return err
		}
		for _, n := range names {
			if n != "ALL" && !slices.Contains(m.Capabilities, n) {
				return fmt.Errorf("%s: the runtime does not have it itself, and cannot pass it on", n)
			}
		}
	}
	return nil
}

// checkNamespaces: a container's network and IPC namespaces are its sandbox's.
// POD, which is also what is not said, means those.
func checkNamespaces(o, sandbox *cri.NamespaceOption) error {
	for _, ns := range []struct {
		name       string
		mode, have cri.NamespaceMode
	}{{"network", o.GetNetwork(), sandbox.GetNetwork()}, {"ipc", o.GetIpc(), sandbox.GetIpc()}} {
		if ns.mode != cri.NamespaceMode_POD && ns.mode != ns.have {
			return fmt.Errorf("%s: %s, but the sandbox has %s", ns.name, ns.mode, ns.have)
		}
	}
	switch {
	case cri.NamespaceMode_name[int32(o.GetPid())] == "":
		return fmt.Errorf("pid: %d is not known", o.GetPid())
	case o.GetPid() == cri.NamespaceMode_TARGET && o.GetTargetId() == "":
		return errors.New("target_id: pid is TARGET, but of which container?")
	case o.GetPid() != cri.NamespaceMode_TARGET && o.GetTargetId() != "":
		return fmt.Errorf("target_id: goes with pid TARGET, not %s", o.GetPid())
	}
	return checkSameUsers(o.GetUsernsOptions(), sandbox.GetUsernsOptions())
}

func checkSandboxNamespaces(o *cri.NamespaceOption) error {
	for name, mode := range map[string]cri.NamespaceMode{"network": o.GetNetwork(), "ipc": o.GetIpc()} {
		if mode != cri.NamespaceMode_POD && mode != cri.NamespaceMode_NODE {
			return fmt.Errorf("%s: a sandbox's is POD or NODE, not %s", name, mode)
		}
	}
	switch o.GetPid() {
	case cri.NamespaceMode_POD, cri.NamespaceMode_CONTAINER, cri.NamespaceMode_NODE:
	default:
		return fmt.Errorf("pid: a sandbox's is POD, CONTAINER or NODE, not %s", o.GetPid())
	}
	return checkUserNamespace(o)
}

// checkUserNamespace: with users of its own a pod has the other namespaces too, which those users govern.
func checkUserNamespace(o *cri.NamespaceOption) error {
	users, err := userns.Of(o.GetUsernsOptions())
	if err != nil || users == nil {
		return err
	}
	for name, mode := range map[string]cri.NamespaceMode{"network": o.GetNetwork(), "ipc": o.GetIpc(), "pid": o.GetPid()} {
		if mode == cri.NamespaceMode_NODE {
			return fmt.Errorf("%s: NODE does not go with users of the pod's own (userns_options)", name)
		}
	}
	return nil
}

// checkSameUsers: a container's users are its sandbox's. What is not said means those.
func checkSameUsers(o, sandbox *cri.UserNamespace) error {
	if o == nil {
		return nil
	}
	if _, err := userns.Of(o); err != nil {
		return err
	}
	if o.GetMode() != sandbox.GetMode() && (sandbox != nil || o.GetMode() != cri.NamespaceMode_NODE) ||
		!userns.Same(o.GetUids(), sandbox.GetUids()) || !userns.Same(o.GetGids(), sandbox.GetGids()) {
		return errors.New("userns_options: not those of the sandbox")
	}
	return nil
}

// checkSELinux: where the kernel has no SELinux there is no label to give.
func checkSELinux(o *cri.SELinuxOption, m Machine) error {
	if m.SELinux && o.GetUser()+o.GetRole()+o.GetType()+o.GetLevel() != "" {
		return errors.New("this runtime gives no SELinux labels")
	}
	return nil
}

func checkUser(sc *cri.LinuxContainerSecurityContext) error {
	if sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "" {
		return errors.New("run_as_user and run_as_username exclude one another")
	}
	if err := checkGroupAlone(sc.GetRunAsGroup() != nil, sc.GetRunAsUser() != nil || sc.GetRunAsUsername() != ""); err != nil {
		return err
	}
	return errors.Join(checkID(sc.GetRunAsUser()), checkID(sc.GetRunAsGroup()))
}

func checkGroupAlone(group, user bool) error {
	if group && !user {
		return errors.New("needs run_as_user as well")
	}
	return nil
}

func checkID(id *cri.Int64Value) error {
	if id != nil && (id.Value < 0 || id.Value > math.MaxUint32-1) {
		return fmt.Errorf("%d is not an id", id.Value)
	}
	return nil
}

func checkGroups(groups []int64, policy cri.SupplementalGroupsPolicy) error {
	for _, g := range groups {
		if err := checkID(&cri.Int64Value{Value: g}); err != nil {
			return err
		}
	}
	if _, ok := cri.SupplementalGroupsPolicy_name[int32(policy)]; !ok {
		return fmt.Errorf("supplemental_groups_policy: %d is not known", policy)
	}
	return nil
}

// checkSeccomp reads a profile of the node's, so that a missing one fails the
// creation and not the start. A privileged container has none.
func checkSeccomp(sc *cri.LinuxContainerSecurityContext) error {
	if _, ok := cri.SecurityProfile_ProfileType_name[int32(sc.GetSeccomp().GetProfileType())]; !ok {
		return fmt.Errorf("profile_type: %d is not known", sc.GetSeccomp().GetProfileType())
	}
	if sc.GetPrivileged() {
		return nil
	}
	_, err := seccompFor(sc, nil)
	return err
}

// checkAppArmor: where the kernel has no AppArmor, nothing is confined by it,
// and only a profile of the node's is refused. Where it has, we have no default profile.
func checkAppArmor(p *cri.SecurityProfile, privileged bool, m Machine) error {
	switch {
	case p == nil, privileged, p.GetProfileType() == cri.SecurityProfile_Unconfined:
		return nil
	case p.GetProfileType() == cri.SecurityProfile_Localhost && p.GetLocalhostRef() == "":
		return errors.New("localhost_ref: name the profile")
	case p.GetProfileType() == cri.SecurityProfile_Localhost && !m.AppArmor:
		return errors.New("this machine has no AppArmor")
	case p.GetProfileType() == cri.SecurityProfile_RuntimeDefault && m.AppArmor:
		return errors.New("this runtime has no default AppArmor profile: name one that is loaded on the node, or Unconfined")
	}
	return nil
}

// oldAppArmor is "" where the old field says no more than the new one does when it is not set.
func oldAppArmor(profile string) string {
	if profile == "unconfined" {
		return ""
	}
	return profile
}

func notGiven(value, instead string) error {
	if value != "" {
		return fmt.Errorf("%q: deprecated and not read here; use %s", value, instead)
	}
	return nil
}
