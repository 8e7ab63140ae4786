// Package cgroup is the runtime's view of the control groups it makes: those
// of pods, and those libcontainer makes for containers.
//
// It owns their limits, their statistics, their removal with all that runs in
// them, and the claim to the group of a whole node, behind one type for cgroup
// v1 (also the hybrid layout) and v2. It touches nothing above the path it is
// given, starts no process in a group, and knows no pods: which groups are
// nobody's any more is for the caller to say.
package cgroup

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Group is one control group, on every hierarchy of the machine. It need not exist.
type Group struct {
	path string
	m    cgroups.Manager
}

// V2 says whether the machine has the unified hierarchy only.
func V2() bool { return cgroups.IsCgroup2UnifiedMode() }

// Controllers are the directories of the v1 controllers that say how much a
// group may use: none on v2, where there is one directory for all.
var Controllers = sync.OnceValue(func() []string {
	if V2() {
		return nil
	}
	var list []string
	for _, name := range []string{"cpu", "cpuset", "memory", "pids"} {
		if dir, err := cgroups.FindCgroupMountpoint("", name); err == nil {
			list = append(list, dir)
		}
	}
	return list
})

// Open returns the group at path, counted from the root of the hierarchy.
func Open(path string) (*Group, error) {
	if !filepath.IsAbs(path) || path == "/" || filepath.Clean(path) != path {
		return nil, fmt.Errorf("cgroup path %q: must be absolute, clean and not the root", path)
	}
	m, err := Manager(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}})
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", path, err)
	}
	return &Group{path: path, m: m}, nil
}

// Manager is the library's, for a group whose path is given. The library itself would look for each controller's mount
// every time, which takes longer than what most callers are here for.
func Manager(c *cgroups.Cgroup) (cgroups.Manager, error) {
	roots, err := controllerRoots()
	if err != nil {
		return nil, err
	}
	paths := make(map[string]string, len(roots))
	for controller, root := range roots {
		paths[controller] = root + c.Path
	}
	return manager.NewWithPaths(c, paths)
}

// controllerRoots are the directories of the root groups, by controller; on v2 there is one, without a name.
var controllerRoots = sync.OnceValues(func() (map[string]string, error) {
	const probe = "/x"
	m, err := manager.New(&cgroups.Cgroup{Path: probe, Resources: &cgroups.Resources{}})
	if err != nil {
		return nil, err
	}
	roots := map[string]string{}
	for controller, dir := range m.GetPaths() {
		root, ok := strings.CutSuffix(dir, probe)
		if !ok {
			return nil, fmt.Errorf("the cgroup %s of controller %q lies at %s", probe, controller, dir)
		}
		roots[controller] = root
	}
	return roots, nil
})

// Create makes the group and gives it limits. Making one that exists again
// is no error.
func (g *Group) Create(r *cri.LinuxContainerResources) error {
	if err := g.m.Apply(-1); err != nil {
		return fmt.Errorf("create cgroup %s: %w", g.path, err)
	}
	return g.Set(r)
}

// Set changes the group's limits. What is zero stays as it is, with CRI's
// meaning: -1 is no limit.
func (g *Group) Set(r *cri.LinuxContainerResources) error {
	if r == nil {
		return nil
	}
	res := Resources(r)
	res.SkipDevices = true
	if err := g.m.Set(res); err != nil {
		return fmt.Errorf("set limits of cgroup %s: %w", g.path, err)
	}
	return nil
}

// Resources translates CRI's limits.
func Resources(r *cri.LinuxContainerResources) *cgroups.Resources {
	pids, others := Unified(r)
	res := &cgroups.Resources{
		PidsLimit: pids,
		Memory:    r.GetMemoryLimitInBytes(), MemorySwap: r.GetMemorySwapLimitInBytes(),
		CpuShares: uint64(r.GetCpuShares()), CpuQuota: r.GetCpuQuota(), CpuPeriod: uint64(r.GetCpuPeriod()),
		CpusetCpus: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(), Unified: others,
	}
	if res.CpuShares != 0 {
		res.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(res.CpuShares)
	}
	for _, h := range r.GetHugepageLimits() {
		res.HugetlbLimit = append(res.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return res
}

// OOMKills counts the processes of the group that the kernel killed for want
// of memory. A group that is gone has none.
func (g *Group) OOMKills() uint64 {
	n, err := g.m.OOMKillCount()
	if err != nil {
		return 0
	}
	return n
}

// dir is the group's directory on a hierarchy that we use: the library asks
// the devices controller, which is the containers' only.
func (g *Group) dir() string {
	for _, controller := range []string{"pids", "memory", "cpu"} {
		if p := g.m.Path(controller); p != "" {
			return p
		}
	}
	return g.m.Path("")
}

// Exists says whether the group is there, on any hierarchy.
func (g *Group) Exists() bool {
	return slices.ContainsFunc(g.dirs(), cgroups.PathExists)
}

// Remove removes the group and the empty groups below it. It succeeds when
// there is none, and fails while a process is in it.
func (g *Group) Remove() error {
	if err := g.m.Destroy(); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.path, err)
	}
	return nil
}

// Stats is what a group has used so far.
type Stats struct {
	At time.Time
	// CPU time in nanoseconds since the group was made.
	CPU uint64
	// Memory in bytes. WorkingSet is usage without the inactive file cache, as the kubelet counts it.
	Usage, WorkingSet, RSS uint64
	// Limit is the memory limit, 0 for none.
	Limit                   uint64
	PageFaults, MajorFaults uint64
	Pids                    uint64
}

// noLimit is above what any machine has: v1 and v2 both write a huge number
// when there is no limit.
const noLimit = 1 << 62

// Stats reads what the group has used.
func (g *Group) Stats() (Stats, error) {
	raw, err := g.m.Stats(&cgroups.StatsOptions{Controllers: cgroups.CPU | cgroups.Memory | cgroups.Pids})
	if err != nil {
		return Stats{}, fmt.Errorf("read cgroup %s: %w", g.path, err)
	}
	mem := raw.MemoryStats
	s := Stats{
		At: time.Now(), CPU: raw.CpuStats.CpuUsage.TotalUsage,
		Usage: mem.Usage.Usage, Limit: mem.Usage.Limit, Pids: raw.PidsStats.Current,
		RSS: mem.Stats["total_rss"], PageFaults: mem.Stats["total_pgfault"], MajorFaults: mem.Stats["total_pgmajfault"],
	}
	inactive := mem.Stats["total_inactive_file"]
	if V2() {
		s.RSS, s.PageFaults, s.MajorFaults = mem.Stats["anon"], mem.Stats["pgfault"], mem.Stats["pgmajfault"]
		inactive = mem.Stats["inactive_file"]
	}
	s.WorkingSet = s.Usage - min(inactive, s.Usage)
	if s.Limit >= noLimit {
		s.Limit = 0
	}
	return s, nil
}

// Add makes the group and moves a process into it.
func (g *Group) Add(pid int) error {
	if err := g.m.Apply(pid); err != nil {
		return fmt.Errorf("add process %d to cgroup %s: %w", pid, g.path, err)
	}
	return nil
}
