package runtime

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
)

var kills = flag.Int("kills", 8, "how many runtimes TestKillsLeaveNoCgroup kills")

// startSteps are all points that the start of a sandbox and of a container pass.
var startSteps = []string{
	"pod recorded", "namespaces made", "pod cgroup made", "init started", "init in its cgroup", "init told", "network attached",
	"container's console opened", "container's cgroup made",
	"container's process waits", "container's state written", "container started", "container's process recorded",
}

// groups lists the cgroups of the node on every hierarchy, itself excepted.
func (n *node) groups() []string {
	n.t.Helper()
	roots, err := cgroup.Hierarchies()
	if err != nil {
		n.t.Fatal(err)
	}
	var list []string
	for _, root := range roots {
		top := filepath.Join(root, "coracle-"+n.id)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil && d.IsDir() && path != top {
				list = append(list, path)
			}
			return nil
		})
		if err != nil {
			n.t.Fatal(err)
		}
	}
	return list
}

// shared asks for a PID namespace of the pod's own and for a cgroup as the agent names it.
func (n *node) shared(cfg *cri.PodSandboxConfig) {
	podNetwork(cfg)
	cfg.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	cfg.Linux.CgroupParent = "/coracle-" + n.id + "/besteffort/poduid-" + cfg.Metadata.Name
}

// tryPod runs a sandbox with a container and returns the first error: the runtime may die under it.
func (n *node) tryPod(name string, opts ...func(*cri.PodSandboxConfig)) error {
	cfg := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "default"},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{},
		}},
	}
	n.shared(cfg)
	for _, o := range opts {
		o(cfg)
	}
	p, err := n.RunPodSandbox(n.ctx(), &cri.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		return err
	}
	c, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: cfg, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: busybox}, Command: []string{"/bin/sleep", "1000"},
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: cfg.Linux.SecurityContext.NamespaceOptions,
		}},
	}})
	if err != nil {
		return err
	}
	_, err = n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: c.ContainerId})
	return err
}

// removeAll removes every sandbox.
func (n *node) removeAll() {
	n.t.Helper()
	list, err := n.ListPodSandbox(n.ctx(), &cri.ListPodSandboxRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range list.Items {
		if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			n.t.Errorf("remove sandbox: %v", err)
		}
	}
}

// noPodGroups fails the test for every cgroup of a pod or container. The
// groups of the classes of service stay as long as the node.
func (n *node) noPodGroups(when string) {
	n.t.Helper()
	for _, g := range n.groups() {
		if !slices.Contains(classNames, filepath.Base(g)) {
			n.t.Errorf("%s: cgroup %s is left", when, g)
		}
	}
}

// withoutClasses removes the groups of the classes of service when the test ends, if they are empty.
func (n *node) withoutClasses() {
	n.t.Cleanup(func() {
		for _, name := range classNames {
			group, err := cgroup.Open("/coracle-" + n.id + "/" + name)
			if err != nil {
				n.t.Fatal(err)
			}
			if below, err := group.Children(); err == nil && len(below) == 0 {
				err = group.Remove()
				if err != nil {
					n.t.Error(err)
				}
			}
		}
	})
}

// strays are processes of the node's runtime's own binary that live beyond it: a pod's init or a
// container's that has not become the container's program yet: one of those has no environment, but the node's mounts.
func (n *node) strays() (list []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range procs {
		env := readFile(p)
		if strings.Contains(env, runtimeEnv+"_ID="+n.id) && strings.Contains(env, "_CORACLE_POD_INIT=") {
			list = append(list, filepath.Dir(p))
		}
		if dir := filepath.Dir(p); strings.HasPrefix(readFile(dir+"/cmdline"), "coracle-init\x00") && strings.Contains(readFile(dir+"/mountinfo"), n.base) {
			list = append(list, dir)
		}
	}
	return list
}

// TestKilledAtEveryStep kills the runtime at each step of a start. The next one leaves nothing of
// what was not complete, and nothing at all once the pod is removed.
func TestKilledAtEveryStep(t *testing.T) { testKilledAt(t, startSteps) }

// testKilledAt returns the node for further looks.
func testKilledAt(t *testing.T, steps []string, opts ...func(*cri.PodSandboxConfig)) *node {
	n := newNode(t)
	n.withoutClasses()
	n.withNetwork()
	for i, step := range steps {
		n.kill()
		n.start(runtimeEnv + "_DIES_AT=" + step)
		if err := n.tryPod(fmt.Sprint("dies-", i), opts...); status.Code(err) != codes.Unavailable {
			t.Fatalf("%s: the runtime was to die there: %v", step, err)
		}
		_ = n.cmd.Wait()
		n.conn.Close()
		n.start()
		list, err := n.ListPodSandbox(n.ctx(), &cri.ListPodSandboxRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == 0 {
			n.noPodGroups("killed at " + step + ", started again")
		}
		n.removeAll()
		n.noPodGroups("killed at " + step + ", removed")
	}
	n.until("no pod's init is left", func() bool { return len(n.strays()) == 0 })
	return n
}

// TestKillsLeaveNoCgroup kills the runtime at times nobody chose, while pods start.
func TestKillsLeaveNoCgroup(t *testing.T) {
	n := newNode(t)
	n.withoutClasses()
	n.withNetwork()
	const pods = 5
	seed := uint64(time.Now().UnixNano())
	chance := rand.New(rand.NewPCG(seed, 1))
	before := len(n.groups())
	for kill := range *kills {
		done := make(chan error, pods)
		for i := range pods {
			go func() { done <- n.tryPod(fmt.Sprintf("pod-%d-%d", kill, i)) }()
		}
		// What is left to chance is when: no condition could be waited for.
		<-time.After(time.Duration(chance.IntN(120)) * time.Millisecond)
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
		for range pods {
			<-done
		}
		n.conn.Close()
		n.start()
	}
	n.removeAll()
	t.Logf("cgroup directories: %d before, %d after %d kills (seed %d)", before, len(n.groups()), *kills, seed)
	n.noPodGroups("after all kills")
	n.until("no pod's init is left", func() bool { return len(n.strays()) == 0 })
}

// TestLeftoversOfEarlierRuntimes makes by hand what an earlier version, or a start that was cut
// short while the container's group was being made, left: on one hierarchy, or on all, with a
// process in it.
func TestLeftoversOfEarlierRuntimes(t *testing.T) {
	n := newNode(t)
	n.withoutClasses()
	pod, cfg := n.pod("lives", n.shared, func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	})
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	living := n.groups()
	n.kill()
	roots, err := cgroup.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	top := "/coracle-" + n.id
	stale := []string{
		filepath.Join(top, newID()), filepath.Join(top, "poduid-gone", newID()), filepath.Join(top, "burstable", "poduid-x", "init"),
		filepath.Join(cfg.Linux.CgroupParent, newID()),
	}
	for i, root := range roots {
		// Each hierarchy lacks another one of them.
		for k, path := range stale {
			if k != i%len(stale) {
				if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	sleeper := exec.Command("/bin/sh", "-c", "read x")
	if _, err := sleeper.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Process.Kill()
	inside, err := cgroup.Open(stale[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := inside.Add(sleeper.Process.Pid); err != nil {
		t.Fatal(err)
	}
	foreign, err := cgroup.Open(filepath.Join(top, "somebody's"))
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Create(nil); err != nil {
		t.Fatal(err)
	}
	n.start()
	if !foreign.Exists() {
		t.Error("a group of a name that no runtime gives was removed")
	}
	if err := foreign.Remove(); err != nil {
		t.Error(err)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("the process in a leftover was not killed")
	}
	after := map[string]bool{}
	for _, g := range n.groups() {
		after[g] = true
		if base := filepath.Base(g); base != "burstable" && !strings.Contains(strings.Join(living, "\n")+"\n", g+"\n") {
			t.Errorf("left: %s", g)
		}
	}
	for _, g := range living {
		if !after[g] {
			t.Errorf("a living pod's group is gone: %s", g)
		}
	}
	if st := n.status(id); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the living container: %v", st)
	}
	// The same while the runtime runs: removal of the pod takes everything of it.
	late := filepath.Join(roots[0], cfg.Linux.CgroupParent, newID())
	if err := os.Mkdir(late, 0o755); err != nil {
		t.Fatal(err)
	}
	n.removeAll()
	n.noPodGroups("removed")
}

// TestCgroupRootIsOnes: two runtimes do not share a node's cgroup, whatever their state directories.
func TestCgroupRootIsOnes(t *testing.T) {
	n := newNode(t)
	n.withoutClasses()
	other := testConfig(t.TempDir(), n.id)
	if err := Destroy(n.ctx(), other, time.Second); err != nil {
		t.Errorf("without state there is nothing to destroy: %v", err)
	}
	err := Run(n.ctx(), other)
	if !errors.Is(err, cgroup.ErrClaimed) {
		t.Errorf("a second runtime on /coracle-%s: %v", n.id, err)
	}
	if err := os.RemoveAll(filepath.Join("/run/coracle", n.id)); err != nil {
		t.Error(err)
	}
}
