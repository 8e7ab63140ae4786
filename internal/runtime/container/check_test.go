package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func id(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }

// TestCheck: each field that could not be obeyed is refused by name, and what can be is not.
func TestCheck(t *testing.T) {
	plain := Machine{RecursiveReadOnly: true, Capabilities: []string{"CAP_CHOWN"}}
	guarded := Machine{SELinux: true, AppArmor: true, RecursiveReadOnly: true}
	old := Machine{}
	profile := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	type sec = cri.LinuxContainerSecurityContext
	type mount = cri.Mount
	with := func(f func(m *mount)) *mount {
		m := &mount{ContainerPath: "/data", HostPath: "/srv"}
		f(m)
		return m
	}
	private := &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}, Privileged: true}
	seccomp := func(kind cri.SecurityProfile_ProfileType, ref string) *cri.SecurityProfile {
		return &cri.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	const local = cri.SecurityProfile_Localhost
	for _, tt := range []struct {
		name    string
		sc      *sec
		mount   *mount
		sandbox *cri.LinuxSandboxSecurityContext
		machine Machine
		refused string // "" obeys
	}{
		{name: "nothing said"},
		{name: "group alone", sc: &sec{RunAsGroup: id(5)}, refused: "security_context.run_as_group: needs run_as_user"},
		{name: "group and user", sc: &sec{RunAsGroup: id(5), RunAsUser: id(6)}},
		{name: "group and user by name", sc: &sec{RunAsGroup: id(5), RunAsUsername: "web"}},
		{name: "two users", sc: &sec{RunAsUser: id(5), RunAsUsername: "web"}, refused: "exclude one another"},
		{name: "user below zero", sc: &sec{RunAsUser: id(-1)}, refused: "-1 is not an id"},
		{name: "group too large", sc: &sec{SupplementalGroups: []int64{1 << 32}}, refused: "supplemental_groups: 4294967296"},
		{name: "policy unknown", sc: &sec{SupplementalGroupsPolicy: 9}, refused: "supplemental_groups_policy: 9"},
		{name: "capability unknown", sc: &sec{Capabilities: &cri.Capability{AddCapabilities: []string{"FLY"}}}, refused: `unknown capability "FLY"`},
		{name: "capability dropped unknown", sc: &sec{Capabilities: &cri.Capability{DropCapabilities: []string{"FLY"}}}, refused: `unknown capability "FLY"`},
		{name: "capability not held", sc: &sec{Capabilities: &cri.Capability{AddCapabilities: []string{"SYS_TIME"}}}, refused: "cannot pass it on"},
		{name: "capability held", sc: &sec{Capabilities: &cri.Capability{AddCapabilities: []string{"chown", "ALL"}}}},
		{name: "privileged", sc: &sec{Privileged: true}, sandbox: private},
		{name: "privileged where none may be", sc: &sec{Privileged: true}, refused: "security_context.privileged"},
		{name: "sandbox's network", sc: &sec{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}, sandbox: private},
		{name: "another network", sc: &sec{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}, refused: "network: NODE, but the sandbox has POD"},
		{name: "another ipc", sc: &sec{NamespaceOptions: &cri.NamespaceOption{Ipc: cri.NamespaceMode_CONTAINER}}, refused: "ipc: CONTAINER"},
		{name: "target of nobody", sc: &sec{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET}}, refused: "target_id"},
		{name: "target unused", sc: &sec{NamespaceOptions: &cri.NamespaceOption{TargetId: "x"}}, refused: "target_id"},
		{name: "pid unknown", sc: &sec{NamespaceOptions: &cri.NamespaceOption{Pid: 9}}, refused: "pid: 9"},
		{name: "user namespace", sc: &sec{NamespaceOptions: &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{}}}, refused: "userns_options"},
		{name: "no user namespace", sc: &sec{NamespaceOptions: &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}}}},
		{name: "label without SELinux", sc: &sec{SelinuxOptions: &cri.SELinuxOption{Type: "spc_t"}}},
		{name: "label", sc: &sec{SelinuxOptions: &cri.SELinuxOption{Type: "spc_t"}}, machine: guarded, refused: "selinux_options"},
		{name: "empty label", sc: &sec{SelinuxOptions: &cri.SELinuxOption{}}, machine: guarded},
		{name: "profile", sc: &sec{Seccomp: seccomp(local, profile)}},
		{name: "profile missing", sc: &sec{Seccomp: seccomp(local, profile+"x")}, refused: "security_context.seccomp"},
		{name: "profile missing, privileged", sc: &sec{Seccomp: seccomp(local, profile+"x"), Privileged: true}, sandbox: private},
		{name: "profile of unknown kind", sc: &sec{Seccomp: seccomp(9, "")}, refused: "profile_type: 9"},
		{name: "old seccomp field", sc: &sec{SeccompProfilePath: "unconfined"}, refused: "seccomp_profile_path"},              //nolint:staticcheck // refused
		{name: "old AppArmor field", sc: &sec{ApparmorProfile: "localhost/x"}, machine: guarded, refused: "apparmor_profile"}, //nolint:staticcheck // refused
		{name: "AppArmor by name", sc: &sec{Apparmor: seccomp(local, "x")}, machine: guarded},
		{name: "AppArmor by name, none there", sc: &sec{Apparmor: seccomp(local, "x")}, refused: "this machine has no AppArmor"},
		{name: "AppArmor without name", sc: &sec{Apparmor: seccomp(local, "")}, machine: guarded, refused: "localhost_ref"},
		{name: "AppArmor's default", sc: &sec{Apparmor: seccomp(0, "")}, machine: guarded, refused: "no default AppArmor profile"},
		{name: "AppArmor's default, none there", sc: &sec{Apparmor: seccomp(0, "")}},

		{name: "mount", mount: with(func(*mount) {})},
		{name: "mount over the root", mount: with(func(m *mount) { m.ContainerPath = "/." }), refused: "container_path"},
		{name: "mount of nothing", mount: with(func(m *mount) { m.HostPath = "" }), refused: "host_path: no source"},
		{name: "mount of two things", mount: with(func(m *mount) { m.Image = &cri.ImageSpec{Image: "x"} }), refused: "exclude one another"},
		{name: "mount of an image", mount: with(func(m *mount) { m.HostPath, m.Readonly, m.Image = "", true, &cri.ImageSpec{Image: "x"} })},
		{name: "image to be written", mount: with(func(m *mount) { m.HostPath, m.Image = "", &cri.ImageSpec{Image: "x"} }), refused: "readonly"},
		{name: "part of no image", mount: with(func(m *mount) { m.ImageSubPath = "x" }), refused: "image_sub_path"},
		{name: "propagation unknown", mount: with(func(m *mount) { m.Propagation = 9 }), refused: "propagation: 9"},
		{name: "mapped ids", mount: with(func(m *mount) { m.GidMappings = []*cri.IDMapping{{Length: 1}} }), refused: "uidMappings, gidMappings"},
		{name: "relabel", mount: with(func(m *mount) { m.SelinuxRelabel = true }), machine: guarded, refused: "selinux_relabel"},
		{name: "relabel without SELinux", mount: with(func(m *mount) { m.SelinuxRelabel = true })},
		{name: "options", mount: with(func(m *mount) { m.MountOptions = []string{"noexec", "nodev"} })},
		{name: "option unknown", mount: with(func(m *mount) { m.MountOptions = []string{"size=5"} }), refused: `mount_options: "size=5"`},
		{name: "option that is a field", mount: with(func(m *mount) { m.MountOptions = []string{"rshared"} }), refused: `mount_options: "rshared"`},
		{name: "recursive", mount: with(func(m *mount) { m.RecursiveReadOnly, m.Readonly = true, true })},
		{name: "recursive, writable", mount: with(func(m *mount) { m.RecursiveReadOnly = true }), refused: "needs readonly"},
		{name: "recursive, from the host", mount: with(func(m *mount) {
			m.RecursiveReadOnly, m.Readonly, m.Propagation = true, true, cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}), refused: "needs private propagation"},
		{name: "recursive, both ways", mount: with(func(m *mount) {
			m.RecursiveReadOnly, m.Readonly, m.Propagation = true, true, cri.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}), refused: "needs private propagation"},
		{name: "recursive, old kernel", mount: with(func(m *mount) { m.RecursiveReadOnly, m.Readonly = true, true }), machine: old, refused: "this kernel cannot"},
	} {
		m := tt.machine
		if !m.RecursiveReadOnly && tt.refused != "this kernel cannot" {
			m = plain
		}
		cfg := &cri.ContainerConfig{Linux: &cri.LinuxContainerConfig{SecurityContext: tt.sc}}
		if tt.mount != nil {
			cfg.Mounts = []*cri.Mount{tt.mount}
		}
		sandbox := &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{SecurityContext: tt.sandbox}}
		expect(t, tt.name, Check(cfg, sandbox, m), tt.refused)
	}
}

func TestCheckSandbox(t *testing.T) {
	type sec = cri.LinuxSandboxSecurityContext
	for _, tt := range []struct {
		name    string
		sc      *sec
		machine Machine
		refused string
	}{
		{name: "nothing said"},
		{name: "group alone", sc: &sec{RunAsGroup: id(5)}, refused: "run_as_group: needs run_as_user"},
		{name: "group and user", sc: &sec{RunAsGroup: id(5), RunAsUser: id(6)}},
		{name: "no id", sc: &sec{RunAsUser: id(-6)}, refused: "run_as_user: -6"},
		{name: "network", sc: &sec{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_CONTAINER}}, refused: "network"},
		{name: "target", sc: &sec{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET}}, refused: "pid"},
		{name: "user namespace", sc: &sec{NamespaceOptions: &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{}}}, refused: "userns_options"},
		{name: "label", sc: &sec{SelinuxOptions: &cri.SELinuxOption{Level: "s0"}}, machine: Machine{SELinux: true}, refused: "selinux_options"},
		{name: "old seccomp field", sc: &sec{SeccompProfilePath: "x"}, refused: "seccomp_profile_path"}, //nolint:staticcheck // refused
	} {
		cfg := &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{SecurityContext: tt.sc}}
		expect(t, tt.name, CheckSandbox(cfg, tt.machine), tt.refused)
	}
}

func expect(t *testing.T, name string, err error, refused string) {
	t.Helper()
	switch {
	case refused == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case refused != "" && (err == nil || !strings.Contains(err.Error(), refused)):
		t.Errorf("%s: %v, want %q", name, err, refused)
	}
}
