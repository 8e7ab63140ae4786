package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/image"
	"coracle/internal/runtime/overlay"
	"coracle/internal/runtime/userns"
)

// usersFirst and usersCount are the ids of the tests' pods on the node.
const (
	usersFirst = 1_900_000_000 &^ 0xffff
	usersCount = 1 << 16
)

var ownIDs = []*cri.IDMapping{{ContainerId: 0, HostId: usersFirst, Length: usersCount}}

// ownUsers gives a sandbox users and a network of its own.
func ownUsers(cfg *cri.PodSandboxConfig) {
	podNetwork(cfg)
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ownIDs, Gids: ownIDs}
}

// mapped has files shown to the pod's users under the ids that they have on disk.
func mapped(m *cri.Mount) *cri.Mount {
	m.UidMappings, m.GidMappings = ownIDs, ownIDs
	return m
}

// hostIDs are the user and group of a process on the node.
func hostIDs(t *testing.T, pid string) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 2 && (f[0] == "Uid:" || f[0] == "Gid:") {
			ids = append(ids, f[2])
		}
	}
	return strings.Join(ids, ":")
}

// pidOf is the process of a container.
func (n *node) pidOf(id string) string {
	n.t.Helper()
	r, err := n.ContainerStatus(n.ctx(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Info["pid"]
}

// apart runs a sandbox with users of its own.
func (n *node) apart(name string, opts ...func(*cri.PodSandboxConfig)) (string, *cri.PodSandboxConfig) {
	n.t.Helper()
	n.withNetwork()
	return n.pod(name, append([]func(*cri.PodSandboxConfig){ownUsers}, opts...)...)
}

// exec runs a script in a container and returns what it printed.
func (n *node) exec(id, script string) string {
	n.t.Helper()
	r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", script}})
	if err != nil {
		n.t.Fatal(err)
	}
	return string(r.Stdout) + string(r.Stderr)
}

// wants fails the test for each line that is not in what a container printed.
func wants(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+out, "\n"+l+"\n") {
			t.Errorf("lacks %q: %q", l, out)
		}
	}
}

// initOf is the init process of a pod that shares its PID namespace.
func (n *node) initOf(pod string) string {
	n.t.Helper()
	var r podRecord
	if err := readState(filepath.Join(n.base, "state/sandboxes", pod), &r); err != nil {
		n.t.Fatal(err)
	}
	return fmt.Sprint(r.InitPID)
}

// TestUsersOfItsOwn: a pod's root is root inside and nobody outside, and what containers find is as in any other pod.
func TestUsersOfItsOwn(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.apart("apart", func(c *cri.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"kernel.shmmax": "123456", "net.ipv4.ip_default_ttl": "33"}
	})
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	if got, want := hostIDs(t, n.pidOf(id)), fmt.Sprintf("%d:%d", usersFirst, usersFirst); got != want {
		t.Errorf("on the node the pod's root is %s, want %s", got, want)
	}
	look := "tr -s ' ' </proc/self/uid_map; stat -c '%n %u:%g' /bin/busybox /etc/hostname /dev/shm /; cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_default_ttl;" +
		"grep -c mqueue /proc/mounts; echo there >/dev/shm/x; echo mine >/etc/hostname && cat /etc/hostname;" + inspect
	wants(t, n.output(pod, cfg, "look", look),
		fmt.Sprintf(" 0 %d %d", usersFirst, usersCount), "/bin/busybox 0:0", "/etc/hostname 0:0", "/dev/shm 0:0", "/ 0:0", "123456", "33", "1", "mine",
		"CapEff: 00000000a80425fb", "Seccomp: 2", "root=writable", "unshare=refused", "blk=refused", "direct", "direct2", "ports=0")
	out := n.output(pod, cfg, "user", "echo me >/dev/shm/mine; cat /dev/shm/x;"+inspect, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.SupplementalGroups = &cri.Int64Value{Value: 1234}, []int64{88}
	})
	wants(t, out, "there", "direct", "direct2", "CapEff: 0000000000000000")
	wants(t, n.exec(id, "stat -c %u /dev/shm/mine; id -u; echo out >/dev/stdout; readlink /proc/self/ns/user"), "1234", "0", "out")
	for _, want := range []string{"user=1234:", "88"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q: %q", want, out)
		}
	}
}

// TestUsersFiles: files have the ids in the pod that they have on disk, of whatever kind the mount, and what the pod's users
// write is theirs on disk too. Without a mapping they are nobody's.
func TestUsersFiles(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.apart("files")
	host := filepath.Join(n.base, "vol")
	writeFile(t, filepath.Join(host, "dir/f"), "f")
	writeFile(t, filepath.Join(host, "file"), "f")
	memory := filepath.Join(n.base, "memory")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(memory, 0o777))
	must(unix.Mount("test", memory, "tmpfs", 0, "size=64k,mode=2770,gid=4444"))
	t.Cleanup(func() { _ = unix.Unmount(memory, unix.MNT_DETACH) })
	below := filepath.Join(host, "dir/below")
	must(os.Mkdir(below, 0o777))
	must(unix.Mount("test", below, "tmpfs", 0, "size=64k,mode=755,uid=7"))
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	must(os.Chown(filepath.Join(host, "dir"), 1000, 4444))
	must(unix.Chmod(filepath.Join(host, "dir"), 0o2770))
	must(os.Chown(filepath.Join(host, "file"), 1234, 0))
	out := n.output(pod, cfg, "main", `stat -c '%n %u:%g' /dir /dir/f /file /memory /dir/below /plain
echo x >/dir/new && echo x >/memory/new && echo x >/file && cp /bin/busybox /dir/su && chmod 4755 /dir/su; stat -c '%n %u:%g' /dir/new /memory/new /dir/su
echo x >/plain/new || echo plain=closed`, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.SupplementalGroups = &cri.Int64Value{Value: 1234}, []int64{4444}
		c.Mounts = []*cri.Mount{
			mapped(&cri.Mount{ContainerPath: "/dir", HostPath: filepath.Join(host, "dir")}),
			mapped(&cri.Mount{ContainerPath: "/file", HostPath: filepath.Join(host, "file")}),
			mapped(&cri.Mount{ContainerPath: "/memory", HostPath: memory}),
			{ContainerPath: "/plain", HostPath: filepath.Join(host, "dir")},
		}
	})
	wants(t, out, "/dir 1000:4444", "/dir/f 0:0", "/file 1234:0", "/memory 0:4444", "/dir/below 7:0", "/plain 65534:65534",
		"/dir/new 1234:4444", "/memory/new 1234:4444", "/dir/su 1234:4444", "plain=closed")
	for name, mode := range map[string]uint32{"dir/new": 0o644, "dir/su": unix.S_ISUID | 0o755} {
		var st unix.Stat_t
		must(unix.Stat(filepath.Join(host, name), &st))
		if st.Uid != 1234 || st.Gid != 4444 || st.Mode&0o7777 != mode {
			t.Errorf("%s on the node: %d:%d %o", name, st.Uid, st.Gid, st.Mode)
		}
	}
	// What is written to the root file system is on the node what the pod's users are there.
	var st unix.Stat_t
	id := n.sh(pod, cfg, "root", "cp /bin/busybox /su; chmod 4755 /su; cp -p /su /dir/root; chown 5 /etc/passwd; exec sleep 1000", func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{mapped(&cri.Mount{ContainerPath: "/dir", HostPath: filepath.Join(host, "dir")})}
	})
	n.startCtr(id)
	upper := filepath.Join(n.base, "state/containers", id, "upper")
	n.until("the container has written", func() bool {
		return unix.Lstat(filepath.Join(upper, "etc/passwd"), &st) == nil && st.Uid == usersFirst+5
	})
	must(unix.Lstat(filepath.Join(upper, "su"), &st))
	if st.Uid != usersFirst || st.Mode&unix.S_ISUID == 0 {
		t.Errorf("a set-user-ID program of the pod's root: %d %o", st.Uid, st.Mode)
	}
	// In a volume it is root's, as by any pod's root: what keeps the node's users from it is the volume's fence.
	must(unix.Lstat(filepath.Join(host, "dir/root"), &st))
	if st.Uid != 0 || st.Mode&unix.S_ISUID == 0 {
		t.Errorf("a set-user-ID program of the pod's root in a volume: %d %o", st.Uid, st.Mode)
	}
}

// TestUsersCannotSee: a mount from a file system that cannot show its files to the pod's users refuses the container, and
// says which; so do a user and a group that the pod has not.
func TestUsersCannotSee(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.apart("cannot")
	host := filepath.Join(n.base, "vol")
	writeFile(t, filepath.Join(host, "f"), "f")
	for name, tt := range map[string]struct {
		change func(*cri.ContainerConfig)
		says   string
	}{
		"proc": {func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{mapped(&cri.Mount{ContainerPath: "/x", HostPath: "/proc"})}
		}, "mount /x: the file system at /proc (proc) cannot be shown to users of the pod's own"},
		"below": {func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{mapped(&cri.Mount{ContainerPath: "/x", HostPath: filepath.Join(n.base, "vol")})}
		}, "the file system at " + host + "/sub (overlay) cannot be shown"},
		"shared": {func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{mapped(&cri.Mount{ContainerPath: "/x", HostPath: host, Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL})}
		}, "propagation: BIDIRECTIONAL"},
		"other": {func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/x", HostPath: host, UidMappings: []*cri.IDMapping{{HostId: 7, Length: 1}}}}
		}, "they are not those of the sandbox"},
		"user": {func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: usersCount}
		}, "user 65536 is not one of the pod's own 65536 users"},
		"group": {func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.SupplementalGroups = []int64{usersCount}
		}, "group 65536 is not one of the pod's own 65536 groups"},
	} {
		if name == "below" {
			layered(t, filepath.Join(host, "sub"))
		}
		c := &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: busybox}, Command: []string{"true"},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: cfg.Linux.SecurityContext.NamespaceOptions}},
		}
		tt.change(c)
		_, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: cfg})
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// layered mounts an overlay, which knows no mapped mounts.
func layered(t *testing.T, at string) {
	t.Helper()
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	stack := overlay.Stack{Lower: []string{t.TempDir(), t.TempDir()}}
	if err := stack.Mount(at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}

// TestUsersEverywhere: sharing processes, terminals, images as volumes, volumes that images declare, devices, limits and a
// read-only root are in a pod with users of its own as in others.
func TestUsersEverywhere(t *testing.T) {
	n := newNode(t)
	const img = "declares:1"
	if _, err := n.store.Build(img, busyboxRoot(t), image.BuildOptions{Volumes: []string{"/etc", "/new/place"}}); err != nil {
		t.Fatal(err)
	}
	pod, cfg := n.apart("everywhere", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	})
	first := n.sh(pod, cfg, "first", "exec sleep 1001")
	n.startCtr(first)
	id := n.sh(pod, cfg, "main", "exec sleep 1000", func(c *cri.ContainerConfig) {
		c.Image.Image, c.Linux.SecurityContext.ReadonlyRootfs = img, true
		c.Mounts = []*cri.Mount{{ContainerPath: "/image", Image: &cri.ImageSpec{Image: busybox}, Readonly: true}}
		c.Devices = []*cri.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/mine", Permissions: "rw"}}
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, Unified: map[string]string{"pids.max": "50"}}
	})
	n.startCtr(id)
	n.until("both shells are what they become", func() bool { return strings.Contains(n.exec(id, `ps | grep -c 'sleep 100[01]$'; true`), "2") })
	wants(t, n.exec(id, `ps | grep -c 'sleep 100[01]$'; touch /x 2>/dev/null || echo root=ro; echo x >/new/place/x && stat -c %u /new/place /new/place/x /etc/passwd
stat -c '%n %u' /image/bin/busybox; touch /image/x 2>/dev/null || echo image=ro; head -c 3 /dev/mine | wc -c; : >/dev/null && echo null
cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null`),
		"2", "root=ro", "0", "/image/bin/busybox 0", "image=ro", "3", "null", fmt.Sprint(64<<20))
	if got := hostIDs(t, n.initOf(pod)); got != fmt.Sprintf("%d:%d", usersFirst+65535, usersFirst+65535) {
		t.Errorf("the pod's init is %s", got)
	}
	if raw, err := os.ReadFile("/proc/" + n.pidOf(id) + "/oom_score_adj"); err != nil {
		t.Errorf("%s %v", raw, err)
	}
}

// TestUsersStreams: exec, attach and port-forward reach a pod with users of its own.
func TestUsersStreams(t *testing.T) {
	testStreams(t, ownUsers)
	testTTYContainer(t, ownUsers)
}

// TestUsersOutliveTheRuntime: after the runtime was killed the pod has the users that it had; when it is removed nothing is
// left, also of a container that was half made.
func TestUsersOutliveTheRuntime(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.apart("outlives")
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	created := n.sh(pod, cfg, "created", "stat -c %u:%g /bin/busybox")
	ns := n.exec(id, "readlink /proc/self/ns/user")
	n.kill()
	half := filepath.Join((&service{cfg: Config{ID: n.id}}).rootsOf(strings.Repeat("0", 64)), "rootfs")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", half, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	n.start()
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("a half-made root file system is left: %v", err)
	}
	if again := n.exec(id, "readlink /proc/self/ns/user"); again != ns {
		t.Errorf("user namespace %s, then %s", ns, again)
	}
	n.startCtr(created)
	n.finished(created)
	wants(t, logText(t, filepath.Join(cfg.LogDirectory, "created.log")), "0:0")
	if out := n.output(pod, cfg, "next", "readlink /proc/self/ns/user"); out != ns {
		t.Errorf("a container made later is in %s, not %s", out, ns)
	}
	st, err := n.PodSandboxStatus(n.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || !userns.Same(st.Status.Linux.Namespaces.Options.UsernsOptions.GetUids(), ownIDs) {
		t.Errorf("status: %v %v", st, err)
	}
	if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir((&service{cfg: Config{ID: n.id}}).rootsDir()); !os.IsNotExist(err) {
		t.Errorf("left of root file systems: %v %v", left, err)
	}
}

// TestUsersKilledAtSteps: a runtime that is killed while it starts a pod with users of its own leaves nothing either: no
// process of theirs, no place of a root file system.
func TestUsersKilledAtSteps(t *testing.T) {
	own := func(cfg *cri.PodSandboxConfig) {
		ownUsers(cfg)
		cfg.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	}
	n := testKilledAt(t, []string{"namespaces made", "init in its cgroup", "container's console opened", "container started"}, own)
	n.until("no process of the pods' users is left", func() bool { return processesOf(usersFirst) == 0 })
	if left, err := os.ReadDir((&service{cfg: Config{ID: n.id}}).rootsDir()); !os.IsNotExist(err) {
		t.Errorf("left of root file systems: %v %v", left, err)
	}
}

// processesOf counts the processes in user namespaces that begin at an id of the node.
func processesOf(first int) (count int) {
	maps, _ := filepath.Glob("/proc/[0-9]*/uid_map")
	for _, m := range maps {
		if f := strings.Fields(readFile(m)); len(f) == 3 && f[1] == fmt.Sprint(first) {
			count++
		}
	}
	return count
}
