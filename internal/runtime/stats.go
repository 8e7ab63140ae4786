package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/sandbox"
	"coracle/internal/runtime/snapshot"
)

// rates remembers the last reading of each cgroup, so that a use per second
// can be told without anybody sampling in between.
type rates struct {
	mu   sync.Mutex
	last map[string]cgroup.Stats
}

// minRate is the shortest time a rate is worked out over; readings that
// follow more closely use the one before.
const minRate = time.Second

func (r *rates) nanoCores(path string, now cgroup.Stats) *cri.UInt64Value {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[string]cgroup.Stats{}
	}
	old, ok := r.last[path]
	took := now.At.Sub(old.At)
	if !ok || took >= minRate {
		r.last[path] = now
	}
	if !ok || took <= 0 || now.CPU < old.CPU {
		return nil
	}
	return &cri.UInt64Value{Value: (now.CPU - old.CPU) * uint64(time.Second) / uint64(took)}
}

func (r *rates) forget(keep map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.last {
		if !keep[p] {
			delete(r.last, p)
		}
	}
}

func (s *service) usage(path string) (*cri.CpuUsage, *cri.MemoryUsage, uint64, error) {
	group, err := cgroup.Open(path)
	if err != nil {
		return nil, nil, 0, err
	}
	st, err := group.Stats()
	if err != nil {
		return nil, nil, 0, err
	}
	at := st.At.UnixNano()
	u := func(v uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: v} }
	mem := &cri.MemoryUsage{
		Timestamp: at, WorkingSetBytes: u(st.WorkingSet), UsageBytes: u(st.Usage), RssBytes: u(st.RSS),
		PageFaults: u(st.PageFaults), MajorPageFaults: u(st.MajorFaults),
	}
	if st.Limit > 0 {
		mem.AvailableBytes = u(st.Limit - min(st.WorkingSet, st.Limit))
	}
	cpu := &cri.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: u(st.CPU), UsageNanoCores: s.stats.nanoCores(path, st)}
	return cpu, mem, st.Pids, nil
}

func (s *service) containerStats(c *ctr) (*cri.ContainerStats, error) {
	st := c.snapshot()
	out := &cri.ContainerStats{Attributes: &cri.ContainerAttributes{
		Id: c.ID, Metadata: c.config.GetMetadata(), Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations(),
	}}
	if st.Phase == phaseRunning {
		var err error
		if out.Cpu, out.Memory, _, err = s.usage(c.Cgroup); err != nil {
			return nil, err
		}
	}
	bytes, inodes := snapshot.Usage(c.dir)
	out.WritableLayer = &cri.FilesystemUsage{
		Timestamp: time.Now().UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: filepath.Join(s.cfg.StateDir, "containers")},
		UsedBytes: &cri.UInt64Value{Value: bytes}, InodesUsed: &cri.UInt64Value{Value: inodes},
	}
	return out, nil
}

// ContainerStats reads what a container uses.
func (s *service) ContainerStats(_ context.Context, req *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	c, err := s.ctr(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	st, err := s.containerStats(c)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "stats of container %s: %v", c.ID, err)
	}
	return &cri.ContainerStatsResponse{Stats: st}, nil
}

// ListContainerStats reads what the containers that pass the filter use.
func (s *service) ListContainerStats(_ context.Context, req *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	out := &cri.ListContainerStatsResponse{}
	f := req.GetFilter()
	for _, c := range s.filterContainers(f.GetId(), f.GetPodSandboxId(), f.GetLabelSelector()) {
		if st, err := s.containerStats(c); err == nil { // it may just have ended
			out.Stats = append(out.Stats, st)
		}
	}
	s.forgetRates()
	return out, nil
}

func (s *service) podStats(p *pod) (*cri.PodSandboxStats, error) {
	st := p.snapshot()
	linux := &cri.LinuxPodSandboxStats{}
	if st.Ready {
		cpu, mem, pids, err := s.usage(p.Cgroup)
		if err != nil {
			return nil, err
		}
		linux.Cpu, linux.Memory = cpu, mem
		linux.Process = &cri.ProcessUsage{Timestamp: cpu.Timestamp, ProcessCount: &cri.UInt64Value{Value: pids}}
		linux.Network = networkUsage(p)
	}
	for _, c := range s.containersOf(p.ID) {
		if c.snapshot().Phase != phaseRunning {
			continue
		}
		if cs, err := s.containerStats(c); err == nil {
			linux.Containers = append(linux.Containers, cs)
		}
	}
	return &cri.PodSandboxStats{
		Attributes: &cri.PodSandboxAttributes{Id: p.ID, Metadata: p.config.GetMetadata(), Labels: p.config.GetLabels(), Annotations: p.config.GetAnnotations()},
		Linux:      linux,
	}, nil
}

// networkUsage reads the counters of the pod's eth0; nil when the pod has none.
func networkUsage(p *pod) *cri.NetworkUsage {
	if !p.Namespaces.Net {
		return nil
	}
	var raw []byte
	err := sandbox.Inside(p.dir, func() (err error) {
		raw, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(raw)) {
		name, counters, ok := strings.Cut(line, ":")
		f := strings.Fields(counters)
		if !ok || strings.TrimSpace(name) != "eth0" || len(f) < 11 {
			continue
		}
		n := func(i int) *cri.UInt64Value {
			v, _ := strconv.ParseUint(f[i], 10, 64)
			return &cri.UInt64Value{Value: v}
		}
		eth := &cri.NetworkInterfaceUsage{Name: "eth0", RxBytes: n(0), RxErrors: n(2), TxBytes: n(8), TxErrors: n(10)}
		return &cri.NetworkUsage{Timestamp: time.Now().UnixNano(), DefaultInterface: eth, Interfaces: []*cri.NetworkInterfaceUsage{eth}}
	}
	return nil
}

// PodSandboxStats reads what a pod uses.
func (s *service) PodSandboxStats(_ context.Context, req *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	p, err := s.pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	st, err := s.podStats(p)
	if err != nil {
		return nil, fmt.Errorf("stats of sandbox %s: %w", p.ID, err)
	}
	return &cri.PodSandboxStatsResponse{Stats: st}, nil
}

// ListPodSandboxStats reads what the pods that pass the filter use.
func (s *service) ListPodSandboxStats(_ context.Context, req *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	out := &cri.ListPodSandboxStatsResponse{}
	f := req.GetFilter()
	s.mu.RLock()
	var pods []*pod
	for _, p := range s.sandboxes {
		if (f.GetId() == "" || strings.HasPrefix(p.ID, f.GetId())) && matches(p.config.GetLabels(), f.GetLabelSelector()) {
			pods = append(pods, p)
		}
	}
	s.mu.RUnlock()
	for _, p := range pods {
		if st, err := s.podStats(p); err == nil {
			out.Stats = append(out.Stats, st)
		}
	}
	s.forgetRates()
	return out, nil
}

// forgetRates drops the readings of cgroups that are gone.
func (s *service) forgetRates() {
	keep := map[string]bool{}
	s.mu.RLock()
	for _, c := range s.containers {
		keep[c.Cgroup] = true
	}
	for _, p := range s.sandboxes {
		keep[p.Cgroup] = true
	}
	s.mu.RUnlock()
	s.stats.forget(keep)
}
