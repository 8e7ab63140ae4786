package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestArgs is the table of Kubernetes' documentation, "Define a Command and
// Arguments for a Container".
func TestArgs(t *testing.T) {
	img := v1.Config{Entrypoint: []string{"/ep-1"}, Cmd: []string{"foo", "bar"}}
	tests := []struct {
		command, args []string
		img           v1.Config
		want          string
	}{
		{nil, nil, img, "/ep-1 foo bar"},
		{[]string{"/ep-2"}, nil, img, "/ep-2"},
		{nil, []string{"zoo", "boo"}, img, "/ep-1 zoo boo"},
		{[]string{"/ep-2"}, []string{"zoo", "boo"}, img, "/ep-2 zoo boo"},
		{nil, nil, v1.Config{Cmd: []string{"sh"}}, "sh"},
		{nil, nil, v1.Config{}, ""},
		{nil, []string{"x"}, v1.Config{}, "x"},
	}
	for _, tt := range tests {
		got, err := Args(&cri.ContainerConfig{Command: tt.command, Args: tt.args}, tt.img)
		if strings.Join(got, " ") != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("command %v args %v: %v %v, want %q", tt.command, tt.args, got, err, tt.want)
		}
	}
}

func TestEnv(t *testing.T) {
	in := Input{
		Hostname: "h", Image: v1.Config{Env: []string{"PATH=/img", "A=img", "B=img"}},
		Config: &cri.ContainerConfig{Tty: true, Envs: []*cri.KeyValue{{Key: "A", Value: []byte("pod")}, {Key: "C", Value: []byte("x=y")}, {Key: "HOSTNAME", Value: []byte("mine")}}},
	}
	want := []string{"PATH=/img", "HOSTNAME=mine", "TERM=xterm", "A=pod", "B=img", "C=x=y"}
	if diff := cmp.Diff(want, Env(in)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestChosenCapabilities(t *testing.T) {
	tests := []struct {
		name, add, drop string
		has, hasNot     string
		count           int
	}{
		{"defaults", "", "", "CAP_CHOWN CAP_KILL", "CAP_SYS_ADMIN CAP_NET_ADMIN", 14},
		{"drop all", "", "ALL", "", "CAP_CHOWN", 0},
		{"drop all, add one", "NET_BIND_SERVICE", "all", "CAP_NET_BIND_SERVICE", "CAP_CHOWN", 1},
		{"add all", "ALL", "", "CAP_SYS_ADMIN", "", len(capNames)},
		{"add all, drop one", "ALL", "sys_admin", "CAP_CHOWN", "CAP_SYS_ADMIN", len(capNames) - 1},
		{"add one that is there", "CAP_KILL", "", "CAP_KILL", "", 14},
	}
	for _, tt := range tests {
		add, err1 := normalizeCaps(strings.Fields(tt.add))
		drop, err2 := normalizeCaps(strings.Fields(tt.drop))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		got := chosen(add, drop)
		for _, c := range strings.Fields(tt.has) {
			if !slices.Contains(got, c) {
				t.Errorf("%s: lacks %s", tt.name, c)
			}
		}
		for _, c := range strings.Fields(tt.hasNot) {
			if slices.Contains(got, c) {
				t.Errorf("%s: has %s", tt.name, c)
			}
		}
		if len(got) != tt.count {
			t.Errorf("%s: %d capabilities, want %d", tt.name, len(got), tt.count)
		}
	}
	if _, err := normalizeCaps([]string{"NO_SUCH"}); err == nil || !strings.Contains(err.Error(), "NO_SUCH") {
		t.Errorf("unknown capability: %v", err)
	}
}

// action is what a profile does with a call, and whether only under a condition.
func action(p *specs.LinuxSeccomp, call string) (act specs.LinuxSeccompAction, conditional bool) {
	act = p.DefaultAction
	for _, s := range p.Syscalls {
		if slices.Contains(s.Names, call) {
			if act != specs.ActAllow {
				act, conditional = s.Action, len(s.Args) > 0
			}
		}
	}
	return act, conditional
}

func TestDefaultSeccomp(t *testing.T) {
	plain := DefaultSeccomp(defaultCaps)
	admin := DefaultSeccomp(append(slices.Clone(defaultCaps), "CAP_SYS_ADMIN", "CAP_SYS_TIME"))
	for call, want := range map[string][2]string{
		"read": {"allow", "allow"}, "mount": {"deny", "allow"}, "unshare": {"deny", "allow"}, "clone": {"if", "allow"},
		"clone3": {"deny", "allow"}, "keyctl": {"deny", "deny"}, "kexec_load": {"deny", "deny"}, "io_uring_setup": {"deny", "deny"},
		"userfaultfd": {"deny", "deny"}, "settimeofday": {"deny", "allow"}, "chroot": {"allow", "allow"}, "personality": {"if", "if"},
		"socket": {"if", "if"}, "ptrace": {"allow", "allow"}, "bpf": {"deny", "allow"}, "reboot": {"deny", "deny"},
	} {
		for i, p := range []*specs.LinuxSeccomp{plain, admin} {
			act, cond := action(p, call)
			got := "deny"
			if act == specs.ActAllow {
				got = "allow"
				if cond {
					got = "if"
				}
			}
			if got != want[i] {
				t.Errorf("profile %d: %s is %s, want %s", i, call, got, want[i])
			}
		}
	}
	// libcontainer must understand it.
	if _, err := specconv.SetupSeccomp(plain); err != nil {
		t.Error(err)
	}
}

func input(opts ...func(*Input)) Input {
	in := Input{
		Config: &cri.ContainerConfig{Command: []string{"/run"}, Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{}}},
		Rootfs: "/rootfs", CgroupPath: "/coracle-x/pod/ctr", Namespaces: Namespaces{Net: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts", PID: NewPID},
		Hostname: "h", HostnameFile: "/pod/hostname", ResolvConf: "/pod/resolv.conf", Shm: "/pod/shm",
	}
	for _, o := range opts {
		o(&in)
	}
	return in
}

func namespaceOf(s *specs.Spec, kind specs.LinuxNamespaceType) string {
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == kind {
			if ns.Path == "" {
				return "new"
			}
			return ns.Path
		}
	}
	return "node"
}

func TestSpecNamespacesAndCgroups(t *testing.T) {
	v1spec, err := Spec(input(func(in *Input) { in.Controllers = []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu,cpuacct"} }))
	if err != nil {
		t.Fatal(err)
	}
	v2spec, err := Spec(input(func(in *Input) { in.Cgroup2, in.Namespaces.PID, in.Namespaces.Net = true, "/ns/pid", "" }))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind   specs.LinuxNamespaceType
		v1, v2 string
	}{
		{specs.NetworkNamespace, "/ns/net", "node"}, {specs.PIDNamespace, "new", "/ns/pid"}, {specs.MountNamespace, "new", "new"},
		{specs.CgroupNamespace, "node", "new"}, {specs.UserNamespace, "node", "node"}, {specs.IPCNamespace, "/ns/ipc", "/ns/ipc"},
	} {
		if a, b := namespaceOf(v1spec, tt.kind), namespaceOf(v2spec, tt.kind); a != tt.v1 || b != tt.v2 {
			t.Errorf("%s: %s, %s; want %s, %s", tt.kind, a, b, tt.v1, tt.v2)
		}
	}
	cgroups := func(s *specs.Spec) (list []string) {
		for _, m := range s.Mounts {
			if strings.HasPrefix(m.Destination, "/sys/fs/cgroup") {
				list = append(list, m.Type+" "+m.Source+" "+m.Destination)
				if !slices.Contains(m.Options, "ro") && m.Type != "tmpfs" {
					t.Errorf("%s is writable", m.Destination)
				}
			}
		}
		return list
	}
	want1 := []string{
		"tmpfs tmpfs /sys/fs/cgroup", "bind /sys/fs/cgroup/memory/coracle-x/pod/ctr /sys/fs/cgroup/memory",
		"bind /sys/fs/cgroup/cpu,cpuacct/coracle-x/pod/ctr /sys/fs/cgroup/cpu,cpuacct",
	}
	if diff := cmp.Diff(want1, cgroups(v1spec)); diff != "" {
		t.Errorf("cgroup v1 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"cgroup cgroup /sys/fs/cgroup"}, cgroups(v2spec)); diff != "" {
		t.Errorf("cgroup v2 (-want +got):\n%s", diff)
	}
	for _, s := range []*specs.Spec{v1spec, v2spec} {
		if _, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "c", Spec: s}); err != nil {
			t.Error(err)
		}
	}
}

func TestSpecResources(t *testing.T) {
	s, err := Spec(input(func(in *Input) {
		in.MinOOMScoreAdj = 5
		in.Config.Linux.Resources = &cri.LinuxContainerResources{
			CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 1 << 20, MemorySwapLimitInBytes: 1 << 20, OomScoreAdj: -998,
			CpusetCpus: "0-1", HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}},
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "c", Spec: s})
	if err != nil {
		t.Fatal(err)
	}
	r := c.Cgroups.Resources
	if r.CpuQuota != 50000 || r.CpuPeriod != 100000 || r.CpuShares != 512 || r.CpuWeight == 0 || r.Memory != 1<<20 || r.MemorySwap != 1<<20 || r.CpusetCpus != "0-1" {
		t.Errorf("limits: %+v", r)
	}
	if len(r.HugetlbLimit) != 1 || r.HugetlbLimit[0].Limit != 4<<20 {
		t.Errorf("huge pages: %+v", r.HugetlbLimit)
	}
	if *c.OomScoreAdj != 5 {
		t.Errorf("oom_score_adj %d, the lowest possible is 5", *c.OomScoreAdj)
	}
	if !c.Namespaces.Contains(configs.NEWPID) || r.Devices[0].Allow {
		t.Errorf("devices: first rule %+v", r.Devices[0])
	}
}

func TestMountOrderAndErrors(t *testing.T) {
	dir := t.TempDir()
	s, err := Spec(input(func(in *Input) {
		in.Config.Mounts = []*cri.Mount{
			{ContainerPath: "/a/b/c", HostPath: dir}, {ContainerPath: "/etc/hostname", HostPath: dir}, {ContainerPath: "/a", HostPath: dir, Readonly: true, RecursiveReadOnly: true},
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, m := range s.Mounts {
		if m.Source == dir {
			own = append(own, m.Destination+" "+m.Options[len(m.Options)-1])
		}
		if m.Source == "/pod/hostname" {
			t.Error("the sandbox's hostname hides the container's own mount")
		}
	}
	if diff := cmp.Diff([]string{"/a rro", "/etc/hostname rw", "/a/b/c rw"}, own); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	for name, m := range map[string]*cri.Mount{
		"no source":  {ContainerPath: "/a"},
		"not shared": {ContainerPath: "/a", HostPath: privateMount(t), Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL},
	} {
		if _, err := Spec(input(func(in *Input) { in.Config.Mounts = []*cri.Mount{m} })); err == nil || !strings.Contains(err.Error(), "/a") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// privateMount is a directory on a mount that is not shared.
func privateMount(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestResolveUser(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n", "group": "www:x:44:\nextra:x:55:web\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v := func(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }
	tests := []struct {
		name  string
		image string
		sc    *cri.LinuxContainerSecurityContext
		want  User
		fails bool
	}{
		{"nothing said", "", nil, User{0, 0, []uint32{0}}, false},
		{"image's name", "web", nil, User{33, 44, []uint32{44, 55}}, false},
		{"image's name and group", "web:extra", nil, User{33, 55, []uint32{55}}, false},
		{"image's numbers", "7:8", nil, User{7, 8, []uint32{8}}, false},
		{"pod's user before the image's", "web", &cri.LinuxContainerSecurityContext{RunAsUser: v(1000)}, User{1000, 0, []uint32{0}}, false},
		{"pod's group", "web", &cri.LinuxContainerSecurityContext{RunAsGroup: v(9)}, User{33, 9, []uint32{9, 55}}, false},
		{"more groups", "", &cri.LinuxContainerSecurityContext{RunAsUser: v(33), SupplementalGroups: []int64{66, 44}}, User{33, 44, []uint32{44, 55, 66}}, false},
		{"strict", "web", &cri.LinuxContainerSecurityContext{SupplementalGroups: []int64{66}, SupplementalGroupsPolicy: cri.SupplementalGroupsPolicy_Strict}, User{33, 44, []uint32{44, 66}}, false},
		{"unknown name", "nobody", nil, User{}, true},
	}
	for _, tt := range tests {
		got, err := ResolveUser(root, tt.image, tt.sc)
		if (err != nil) != tt.fails || !cmp.Equal(got, tt.want) {
			t.Errorf("%s: %+v %v, want %+v", tt.name, got, err, tt.want)
		}
	}
	// A passwd that is a link out of the root is not followed out.
	if err := os.Remove(filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if u, err := ResolveUser(root, "daemon", nil); err == nil {
		t.Errorf("the node's user database was read: %+v", u)
	}
}
