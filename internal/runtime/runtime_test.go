package runtime

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
)

func TestContainerLife(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("life")
	id := n.sh(pod, cfg, "main", "echo hello; echo oops >&2; printf partial; exit 7")
	if st := n.status(id); st.State != cri.ContainerState_CONTAINER_CREATED {
		t.Errorf("before start: %s", st.State)
	}
	n.startCtr(id)
	st := n.finished(id)
	if st.ExitCode != 7 || st.Reason != "Error" || st.StartedAt == 0 || st.FinishedAt < st.StartedAt {
		t.Errorf("status: %+v", st)
	}
	if st.ImageRef == "" || !strings.HasPrefix(st.ImageId, "sha256:") || st.Image.Image != busybox {
		t.Errorf("image: %v %s %s", st.Image, st.ImageRef, st.ImageId)
	}
	text := logText(t, filepath.Join(cfg.LogDirectory, "main.log"))
	for _, want := range []string{"hello\n", "oops\n", "partial"} {
		if !strings.Contains(text, want) {
			t.Errorf("log %q lacks %q", text, want)
		}
	}
	if _, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: id}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("second start: %v", err)
	}
	for range 2 { // removing is idempotent
		if _, err := n.RemoveContainer(n.ctx(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if _, err := n.StopPodSandbox(n.ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Error(err)
		}
	}
	st2, err := n.PodSandboxStatus(n.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || st2.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("stopped sandbox: %v %v", st2, err)
	}
	for range 2 {
		if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.PodSandboxStatus(n.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod}); status.Code(err) != codes.NotFound {
		t.Errorf("removed sandbox: %v", err)
	}
}

// inspect is what the tests below ask a container about itself.
const inspect = `
grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs|Groups):' /proc/self/status | tr '\t' ' '
echo user=$(id -u):$(id -g) home=$HOME cwd=$(pwd) host=$(hostname) var=$VAR path=$PATH
echo ns=$(readlink /proc/self/ns/net) $(readlink /proc/self/ns/ipc) $(readlink /proc/self/ns/uts) pid=$$
cat /etc/resolv.conf
cat /etc/hostname
touch /rootfile 2>/dev/null && echo root=writable || echo root=readonly
grep -q ' /proc/keys ' /proc/self/mountinfo && echo keys=masked || echo keys=open
v=$(cat /proc/sys/kernel/panic); (echo $v >/proc/sys/kernel/panic) 2>/dev/null && echo sys=writable || echo sys=readonly
df -h /dev/shm | tail -1 | tr -s ' '
cat /proc/sys/net/ipv4/ip_unprivileged_port_start | sed s/^/ports=/
echo direct > /dev/stdout; echo direct2 > /dev/stderr
unshare -m true 2>/dev/null && echo unshare=allowed || echo unshare=refused
mknod /tmp/blk b 8 0 2>/dev/null && head -c1 /tmp/blk 2>/dev/null && echo blk=open || echo blk=refused
`

func TestContainerEnvironment(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("env", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_POD
		c.Linux.SecurityContext.Privileged = true // one of the containers is
		n.withNetwork()
	})
	defaultCaps := "CapEff: 00000000a80425fb"
	tests := []struct {
		name string
		opt  func(*cri.ContainerConfig)
		want []string
		not  []string
	}{
		{"defaults", func(*cri.ContainerConfig) {}, []string{
			defaultCaps, "Seccomp: 2", "NoNewPrivs: 0", "user=0:0 home=/root cwd=/ host=env", "pid=1",
			"search default.svc.cluster.local", "nameserver 10.96.0.10", "options ndots:5", "root=writable", "keys=masked", "sys=readonly",
			"shm 64.0M", "unshare=refused", "blk=refused", "direct\n", "direct2\n", "ports=0\n", "path=/usr/local/sbin:",
		}, nil},
		{"user", func(c *cri.ContainerConfig) {
			sc := c.Linux.SecurityContext
			sc.RunAsUser, sc.RunAsGroup, sc.SupplementalGroups = &cri.Int64Value{Value: 1234}, &cri.Int64Value{Value: 77}, []int64{88}
			sc.ReadonlyRootfs, sc.NoNewPrivs = true, true
			c.WorkingDir, c.Envs = "/var", []*cri.KeyValue{{Key: "VAR", Value: []byte("x y")}}
		}, []string{"direct\n", "direct2\n", "user=1234:77", "home=/tmp cwd=/var", "var=x y", "CapEff: 0000000000000000", "NoNewPrivs: 1", "root=readonly", "Groups: 77 88 3456"}, nil},
		{"name", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUsername = "keeper"
			c.Linux.SecurityContext.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
		}, []string{"user=1234:2345", "Groups: 2345"}, []string{"3456"}},
		{"caps", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}
		}, []string{"CapEff: 0000000000001000"}, nil},
		{"unconfined", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
		}, []string{"Seccomp: 0", defaultCaps}, nil},
		{"privileged", func(c *cri.ContainerConfig) { c.Linux.SecurityContext.Privileged = true },
			[]string{"Seccomp: 0", "keys=open", "sys=writable", "unshare=allowed"}, []string{defaultCaps}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := n.output(pod, cfg, tt.name, inspect, func(c *cri.ContainerConfig) {
				tt.opt(c)
				// The agent sends the defaults, as the kubelet does.
				if !c.Linux.SecurityContext.Privileged {
					c.Linux.SecurityContext.MaskedPaths = []string{"/proc/kcore", "/proc/keys"}
					c.Linux.SecurityContext.ReadonlyPaths = []string{"/proc/sys"}
				}
			})
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("lacks %q:\n%s", want, out)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(out, not) {
					t.Errorf("has %q:\n%s", not, out)
				}
			}
		})
	}
}

func TestStop(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("stop")
	polite := n.sh(pod, cfg, "polite", `trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done`)
	stubborn := n.sh(pod, cfg, "stubborn", `trap '' TERM; echo up; sleep 1000 & while :; do sleep 1; done`)
	usr1 := n.sh(pod, cfg, "usr1", `trap 'exit 5' USR1; echo up; while :; do sleep 0.02; done`, func(c *cri.ContainerConfig) {
		c.StopSignal = cri.Signal_SIGNAL_SIGUSR1
	})
	never := n.sh(pod, cfg, "never", `true`)
	for _, id := range []string{polite, stubborn, usr1} {
		n.startCtr(id)
	}
	for _, name := range []string{"polite", "stubborn", "usr1"} {
		n.until(name+" is up", func() bool {
			return strings.Contains(logText(t, filepath.Join(cfg.LogDirectory, name+".log")), "up")
		})
	}
	for id, timeout := range map[string]int64{polite: 10, stubborn: 1, usr1: 10, never: 10} {
		for range 2 {
			if _, err := n.StopContainer(n.ctx(), &cri.StopContainerRequest{ContainerId: id, Timeout: timeout}); err != nil {
				t.Error(err)
			}
		}
	}
	for id, want := range map[string]int32{polite: 3, stubborn: 137, usr1: 5, never: 0} {
		if st := n.status(id); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != want {
			t.Errorf("%s: %s %d, want %d", st.Metadata.Name, st.State, st.ExitCode, want)
		}
	}
	if text := logText(t, filepath.Join(cfg.LogDirectory, "polite.log")); !strings.Contains(text, "bye") {
		t.Errorf("last words lost: %q", text)
	}
}

func TestOOM(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("oom")
	id := n.sh(pod, cfg, "hog", `x=$(head -c 100000000 /dev/zero | tr '\0' x); echo survived`, func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20, OomScoreAdj: -998}
	})
	n.startCtr(id)
	if st := n.finished(id); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("status: %d %s %s", st.ExitCode, st.Reason, st.Message)
	}
}

func TestResources(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("res", func(c *cri.PodSandboxConfig) {
		c.Linux.CgroupParent = "/coracle-" + n.id + "/burstable/pod1"
		c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 256 << 20}
	})
	id := n.sh(pod, cfg, "main", `cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; echo up; exec sleep 1000`, func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 256, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20}
	})
	n.startCtr(id)
	log := filepath.Join(cfg.LogDirectory, "main.log")
	n.until("container is up", func() bool { return strings.Contains(logText(t, log), "up") })
	if text := logText(t, log); !strings.Contains(text, "67108864") {
		t.Errorf("the container does not see its limit: %q", text)
	}
	st, err := n.ContainerStats(n.ctx(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil || st.Stats.Memory.UsageBytes.Value == 0 || st.Stats.Memory.AvailableBytes.Value > 64<<20 || st.Stats.Cpu.UsageCoreNanoSeconds.Value == 0 {
		t.Errorf("stats: %v %v", st, err)
	}
	_, err = n.UpdateContainerResources(n.ctx(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuQuota: 50000, CpuPeriod: 100000}})
	if err != nil {
		t.Fatal(err)
	}
	st, err = n.ContainerStats(n.ctx(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil || st.Stats.Memory.AvailableBytes.Value <= 64<<20 {
		t.Errorf("stats after update: %v %v", st, err)
	}
	if r := n.status(id).Resources.Linux; r.MemoryLimitInBytes != 128<<20 || r.CpuShares != 256 || r.CpuQuota != 50000 {
		t.Errorf("status after update: %v", r)
	}
	pods, err := n.ListPodSandboxStats(n.ctx(), &cri.ListPodSandboxStatsRequest{})
	if err != nil || len(pods.Stats) != 1 || len(pods.Stats[0].Linux.Containers) != 1 || pods.Stats[0].Linux.Memory.UsageBytes.Value == 0 {
		t.Errorf("pod stats: %v %v", pods, err)
	}
	if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	// What lies above the pod's cgroup is the agent's.
	parent, err := cgroup.Open("/coracle-" + n.id + "/burstable")
	if err != nil {
		t.Fatal(err)
	}
	if below, err := parent.Children(); err != nil || len(below) > 0 || parent.Remove() != nil {
		t.Errorf("the pod's cgroup is left: %v %v", below, err)
	}
}

func TestNamespaceModes(t *testing.T) {
	n := newNode(t)
	n.withNetwork()
	mode := func(m cri.NamespaceMode) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: m}
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1"}
		}
	}
	const ask = `echo $(readlink /proc/self/ns/net) $(readlink /proc/self/ns/ipc) $(readlink /proc/self/ns/uts) $(readlink /proc/self/ns/pid) $$
cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; ip -o addr show eth0`
	parse := func(out string) []string { return strings.Fields(strings.SplitN(out, "\n", 2)[0]) }

	pod, cfg := n.pod("own", mode(cri.NamespaceMode_CONTAINER))
	out := n.output(pod, cfg, "a", ask)
	stays := n.sh(pod, cfg, "stays", ask+"; exec sleep 1000")
	n.startCtr(stays)
	stayed := ""
	n.until("container answers", func() bool {
		stayed = logText(t, filepath.Join(cfg.LogDirectory, "stays.log"))
		return strings.Contains(stayed, "eth0")
	})
	a, b := parse(stayed), parse(n.output(pod, cfg, "b", ask))
	if !slices.Equal(a[:3], b[:3]) || a[3] == b[3] || a[4] != "1" {
		t.Errorf("containers of a pod: %v %v", a, b)
	}
	st, err := n.PodSandboxStatus(n.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || st.Status.Network.Ip == "" || !strings.Contains(out, st.Status.Network.Ip+"/") || !strings.Contains(out, "\n81\n1\n") {
		t.Errorf("network: %v %v, container says %q", st, err, out)
	}
	for i, ns := range []string{"net", "ipc", "uts"} {
		if host, _ := os.Readlink("/proc/self/ns/" + ns); host == a[i] {
			t.Errorf("%s namespace is the node's", ns)
		}
	}

	shared, cfg := n.pod("shared", mode(cri.NamespaceMode_POD))
	first := n.sh(shared, cfg, "first", "exec sleep 1000")
	n.startCtr(first)
	c, d := parse(n.output(shared, cfg, "c", ask)), parse(n.output(shared, cfg, "d", ask))
	if c[3] != d[3] || c[4] == "1" || d[4] == "1" {
		t.Errorf("shared PID namespace: %v %v", c, d)
	}
	ps := n.output(shared, cfg, "ps", `ps; readlink /proc/1/exe || echo exe=hidden; kill -9 $(pidof sleep) && echo killed`)
	if !strings.Contains(ps, "pod-init") || !strings.Contains(ps, "killed") || !strings.Contains(ps, "exe=hidden") {
		t.Errorf("processes of the pod: %s", ps)
	}
	if st := n.finished(first); st.ExitCode != 137 || st.Reason != "Error" {
		t.Errorf("killed from beside: %v", st)
	}

	host, cfg := n.pod("host", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
	})
	e := parse(n.output(host, cfg, "e", ask))
	for i, ns := range []string{"net", "ipc", "uts", "pid"} {
		if link, _ := os.Readlink("/proc/self/ns/" + ns); link != e[i] {
			t.Errorf("%s namespace is not the node's", ns)
		}
	}
	// What a container leaves running in the node's PID namespace dies with it.
	left := n.sh(host, cfg, "left", "sleep 12345 & echo $!; sleep 0.1")
	n.startCtr(left)
	n.finished(left)
	pid := strings.TrimSpace(logText(t, filepath.Join(cfg.LogDirectory, "left.log")))
	n.until("leftover process dies", func() bool {
		raw, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(raw), ") Z ")
	})
}

func TestListFiltersAndStatus(t *testing.T) {
	n := newNode(t)
	podA, cfgA := n.pod("a")
	podB, cfgB := n.pod("b")
	run := n.sh(podA, cfgA, "run", "exec sleep 1000", func(c *cri.ContainerConfig) { c.Labels = map[string]string{"k": "v"} })
	n.startCtr(run)
	n.sh(podB, cfgB, "made", "true")
	for name, tt := range map[string]struct {
		f    *cri.ContainerFilter
		want int
	}{
		"all": {nil, 2}, "pod": {&cri.ContainerFilter{PodSandboxId: podA}, 1}, "short id": {&cri.ContainerFilter{Id: run[:13]}, 1},
		"label": {&cri.ContainerFilter{LabelSelector: map[string]string{"k": "v"}}, 1}, "other": {&cri.ContainerFilter{LabelSelector: map[string]string{"k": "w"}}, 0},
		"state": {&cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_CREATED}}, 1},
	} {
		r, err := n.ListContainers(n.ctx(), &cri.ListContainersRequest{Filter: tt.f})
		if err != nil || len(r.Containers) != tt.want {
			t.Errorf("%s: %v %v", name, r, err)
		}
	}
	pods, err := n.ListPodSandbox(n.ctx(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "b"}}})
	if err != nil || len(pods.Items) != 1 || pods.Items[0].Id != podB {
		t.Errorf("pods: %v %v", pods, err)
	}
	st, err := n.Status(n.ctx(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ready := map[string]bool{}
	for _, c := range st.Status.Conditions {
		ready[c.Type] = c.Status
	}
	if !ready["RuntimeReady"] || ready["NetworkReady"] {
		t.Errorf("conditions before the pod CIDR: %v", st.Status.Conditions)
	}
	n.withNetwork()
	st, err = n.Status(n.ctx(), &cri.StatusRequest{})
	if err != nil || !st.Status.Conditions[1].Status {
		t.Errorf("conditions after the pod CIDR: %v %v", st, err)
	}
	if fs, err := n.images.ImageFsInfo(n.ctx(), &cri.ImageFsInfoRequest{}); err != nil || len(fs.ImageFilesystems) != 1 {
		t.Errorf("image file system: %v %v", fs, err)
	}
}

func TestEvents(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := n.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // from here on nothing is missed
		t.Fatal(err)
	}
	pod, cfg := n.pod("events")
	id := n.sh(pod, cfg, "main", "exit 4")
	n.startCtr(id)
	n.finished(id)
	if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) < 8 {
		e, err := stream.Recv()
		if err != nil {
			t.Fatalf("%v after %v", err, got)
		}
		who := "main"
		if e.ContainerId == pod {
			who = "pod"
		}
		got = append(got, who+" "+strings.TrimSuffix(e.ContainerEventType.String(), "_EVENT"))
		if who == "main" && e.ContainerEventType == cri.ContainerEventType_CONTAINER_STOPPED_EVENT {
			if len(e.ContainersStatuses) != 1 || e.ContainersStatuses[0].ExitCode != 4 || e.PodSandboxStatus.Id != pod {
				t.Errorf("stopped event: %v", e)
			}
		}
	}
	want := []string{
		"pod CONTAINER_CREATED", "pod CONTAINER_STARTED", "main CONTAINER_CREATED", "main CONTAINER_STARTED",
		"main CONTAINER_STOPPED", "pod CONTAINER_STOPPED", "main CONTAINER_DELETED", "pod CONTAINER_DELETED",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
