package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
)

// Resources translates CRI's resource limits; zero values set no limit.
func Resources(r *cri.LinuxContainerResources) *specs.LinuxResources {
	pids, others := cgroup.Unified(r)
	out := &specs.LinuxResources{Unified: others}
	if pids != nil {
		out.Pids = &specs.LinuxPids{Limit: pids}
	}
	cpu := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if v := r.GetCpuPeriod(); v != 0 {
		u := uint64(v)
		cpu.Period = &u
	}
	if v := r.GetCpuQuota(); v != 0 {
		cpu.Quota = &v
	}
	if v := r.GetCpuShares(); v != 0 {
		u := uint64(v)
		cpu.Shares = &u
	}
	out.CPU = cpu
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		out.Memory = &specs.LinuxMemory{Limit: &v}
		if swap := r.GetMemorySwapLimitInBytes(); swap != 0 {
			out.Memory.Swap = &swap
		}
	}
	for _, h := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out
}

func addResources(s *specs.Spec, in Input) {
	r := in.Config.GetLinux().GetResources()
	s.Linux.Resources = Resources(r)
	adj := max(int(r.GetOomScoreAdj()), in.MinOOMScoreAdj)
	s.Process.OOMScoreAdj = &adj
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
}

// MinOOMScoreAdj is the lowest oom_score_adj this process may give a child:
// without CAP_SYS_RESOURCE the kernel only lets it rise.
func MinOOMScoreAdj() (int, error) {
	have, err := held()
	if err != nil {
		return 0, err
	}
	for _, c := range have {
		if c == "CAP_SYS_RESOURCE" {
			return -1000, nil
		}
	}
	raw, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read own oom_score_adj: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(raw)))
}

func addDevices(s *specs.Spec, in Input) error {
	if in.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		s.Linux.Devices = append(s.Linux.Devices, in.OwnDevices...)
	}
	for _, d := range in.Config.GetDevices() {
		to := cmpOr(d.GetContainerPath(), d.GetHostPath())
		list, err := devicesAt(d.GetHostPath(), to)
		if err != nil {
			return fmt.Errorf("device %s: %w", d.GetHostPath(), err)
		}
		for _, dev := range list {
			if in.Namespaces.User == "" {
				s.Linux.Devices = append(s.Linux.Devices, dev)
			} else {
				// None can be made in a user namespace: the node's own is mounted.
				source := filepath.Join(d.GetHostPath(), strings.TrimPrefix(dev.Path, to))
				s.Mounts = append(s.Mounts, specs.Mount{Destination: dev.Path, Type: "bind", Source: source, Options: []string{"bind", "rprivate"}})
			}
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: d.GetPermissions(),
			})
		}
	}
	return nil
}

// NodeDevices lists the devices below /dev, for privileged containers.
func NodeDevices() ([]specs.LinuxDevice, error) {
	return devicesAt("/dev", "/dev")
}

// devicesAt describes the device at path, or all devices below it.
func devicesAt(path, to string) ([]specs.LinuxDevice, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if d, ok, err := deviceAt(real, to); ok || err != nil {
		return []specs.LinuxDevice{d}, err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return nil, err
	}
	var list []specs.LinuxDevice
	for _, e := range entries {
		switch e.Name() {
		case "pts", "shm", "fd", "mqueue", ".udev", "console", "ptmx":
			continue // the container has its own
		}
		from, sub := filepath.Join(real, e.Name()), filepath.Join(to, e.Name())
		if e.IsDir() {
			below, err := devicesAt(from, sub)
			if err != nil {
				continue
			}
			list = append(list, below...)
			continue
		}
		if d, ok, err := deviceAt(from, sub); ok && err == nil {
			list = append(list, d)
		}
	}
	return list, nil
}

func deviceAt(path, to string) (specs.LinuxDevice, bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return specs.LinuxDevice{}, false, err
	}
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
	if kind == "" {
		return specs.LinuxDevice{}, false, nil
	}
	mode := os.FileMode(st.Mode & 0o7777)
	return specs.LinuxDevice{
		Path: to, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, true, nil
}
