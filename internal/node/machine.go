package node

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// machine is what the node is made of.
type machine struct {
	capacity    corev1.ResourceList
	allocatable corev1.ResourceList
	info        corev1.NodeSystemInfo
}

// evictionMemory is kept free of pods, as the kubelet's default hard eviction threshold is.
var evictionMemory = resource.MustParse("100Mi")

func readMachine(cfg *Config) machine {
	m := machine{capacity: corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourcePods:   *resource.NewQuantity(int64(cfg.MaxPods), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(totalMemory(), resource.BinarySI),
	}}
	if bytes := diskSize(cfg.Dir); bytes > 0 {
		m.capacity[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	for name, q := range cfg.Capacity {
		m.capacity[name] = q
	}
	m.allocatable = m.capacity.DeepCopy()
	if memory := m.allocatable[corev1.ResourceMemory]; memory.Cmp(evictionMemory) > 0 {
		memory.Sub(evictionMemory)
		m.allocatable[corev1.ResourceMemory] = memory
	}
	m.info = corev1.NodeSystemInfo{
		MachineID: firstLine("/etc/machine-id"), SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"),
		BootID: firstLine("/proc/sys/kernel/random/boot_id"), KernelVersion: kernel(), OSImage: osName(),
		KubeletVersion: cfg.Version, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	return m
}

func (m *machine) memory() int64 {
	q := m.capacity[corev1.ResourceMemory]
	return q.Value()
}

func totalMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

func diskSize(dir string) int64 {
	var st unix.Statfs_t
	for ; dir != "/"; dir = dir[:max(strings.LastIndexByte(dir, '/'), 1)] {
		if unix.Statfs(dir, &st) == nil {
			return int64(st.Blocks) * st.Bsize
		}
		if strings.LastIndexByte(dir, '/') <= 0 {
			break
		}
	}
	return 0
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func osName() string {
	raw, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			if name, err := strconv.Unquote(value); err == nil {
				return name
			}
			return value
		}
	}
	return runtime.GOOS
}

func firstLine(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	return strings.TrimSpace(line)
}

// meminfo returns a line of /proc/meminfo in bytes, 0 when it cannot be read.
func meminfo(key string) int64 {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == key {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			return n << 10
		}
	}
	return 0
}
