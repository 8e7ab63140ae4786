package cgroup

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResources(t *testing.T) {
	r := Resources(&cri.LinuxContainerResources{
		CpuShares: 1024, CpuQuota: -1, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0", Unified: map[string]string{"memory.high": "1"},
		HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 1}},
	})
	if r.CpuShares != 1024 || r.CpuWeight < 30 || r.CpuWeight > 110 || r.CpuQuota != -1 || r.Memory != 64<<20 || r.CpusetCpus != "0" || r.Unified["memory.high"] != "1" || r.HugetlbLimit[0].Limit != 1 {
		t.Errorf("%+v", r)
	}
	if r := Resources(nil); r.Memory != 0 || r.CpuWeight != 0 {
		t.Errorf("nothing said: %+v", r)
	}
}

func TestWithOverhead(t *testing.T) {
	r := &cri.LinuxContainerResources{CpuShares: 100, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 100}
	o := &cri.LinuxContainerResources{CpuShares: 10, CpuQuota: 1000, CpuPeriod: 10000, MemoryLimitInBytes: 7}
	got := WithOverhead(r, o)
	if got.CpuShares != 110 || got.CpuQuota != 60000 || got.CpuPeriod != 100000 || got.MemoryLimitInBytes != 107 || r.CpuShares != 100 {
		t.Errorf("%v (of %v)", got, r)
	}
	if got := WithOverhead(&cri.LinuxContainerResources{}, o); got.MemoryLimitInBytes != 0 || got.CpuQuota != 0 {
		t.Errorf("without limits: %v", got)
	}
	if WithOverhead(r, nil) != r || WithOverhead(nil, o) != nil {
		t.Error("nothing was to change")
	}
}

func TestOpenRefusesOddPaths(t *testing.T) {
	for _, p := range []string{"", "/", "relative", "/a/../b", "/a/"} {
		if _, err := Open(p); err == nil {
			t.Errorf("%q was accepted", p)
		}
	}
}

func TestGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	name := "/coracle-cgtest-" + strings.ReplaceAll(strings.ToLower(t.TempDir()), "/", "-")[1:]
	top, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Open(name + "/pod")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for range 2 { // also when there is nothing left
			if err := top.Remove(); err != nil {
				t.Error(err)
			}
		}
		if g.Exists() {
			t.Error("the group is left")
		}
	}()
	for range 2 {
		if err := g.Create(&cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 512}); err != nil {
			t.Fatal(err)
		}
	}
	if below, err := top.Children(); err != nil || !slices.Equal(below, []string{"pod"}) {
		t.Errorf("below the parent: %v %v", below, err)
	}
	if below, err := g.Children(); err != nil || len(below) != 0 || !g.Exists() {
		t.Errorf("exists %t, below it: %v %v", g.Exists(), below, err)
	}
	cmd := exec.Command("/bin/sh", "-c", "read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if pids, err := top.Pids(); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("processes: %v %v", pids, err)
	}
	st, err := g.Stats()
	if err != nil || st.Limit != 64<<20 || st.Pids != 1 || st.At.IsZero() {
		t.Errorf("stats: %+v %v", st, err)
	}
	if err := g.Set(&cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}); err != nil {
		t.Error(err)
	}
	if st, err := g.Stats(); err != nil || st.Limit != 128<<20 {
		t.Errorf("stats after the change: %+v %v", st, err)
	}
	if n := g.OOMKills(); n != 0 {
		t.Errorf("%d kills", n)
	}
	Warm() // nothing to see, and no harm
	in.Close()
	_ = cmd.Wait()
}
