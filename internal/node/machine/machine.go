// Package machine reads what the machine has that the node stands on, and what is left of its memory and disk. It changes
// nothing, and what it cannot read it leaves out.
package machine

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what the node is made of.
type Machine struct {
	Capacity    corev1.ResourceList
	Allocatable corev1.ResourceList
	Info        corev1.NodeSystemInfo
}

// EvictionMemory is kept free of pods, as the kubelet's default hard eviction threshold is.
var EvictionMemory = resource.MustParse("100Mi")

// Read finds out what the machine has, but for what capacity says instead. dir is on the disk that pods write to.
func Read(dir string, maxPods int, version string, capacity corev1.ResourceList) Machine {
	m := Machine{Capacity: corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourcePods:   *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(totalMemory(), resource.BinarySI),
	}}
	if bytes := diskSize(dir); bytes > 0 {
		m.Capacity[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	for name, q := range capacity {
		m.Capacity[name] = q
	}
	m.Allocatable = m.Capacity.DeepCopy()
	if memory := m.Allocatable[corev1.ResourceMemory]; memory.Cmp(EvictionMemory) > 0 {
		memory.Sub(EvictionMemory)
		m.Allocatable[corev1.ResourceMemory] = memory
	}
	m.Info = corev1.NodeSystemInfo{
		MachineID: firstLine("/etc/machine-id"), SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"),
		BootID: firstLine("/proc/sys/kernel/random/boot_id"), KernelVersion: kernel(), OSImage: osName(),
		KubeletVersion: version, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	return m
}

// Memory is how many bytes of memory the node has.
func (m *Machine) Memory() int64 {
	q := m.Capacity[corev1.ResourceMemory]
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

// FreeMemory is how many bytes of memory are free; more than any machine has when that cannot be read.
func FreeMemory() int64 {
	raw := meminfo("MemAvailable:")
	if raw == 0 {
		return 1 << 62 // not known: no pressure
	}
	return raw
}

// DiskShort says whether little is left of the disk that a directory is on. It is the kubelet's default threshold nodefs.available<10%, on file systems that are not
// much larger than pods could ever fill; the threshold is capped at 1 GiB so that a large, well
// used disk of a developer's machine does not turn its node away.
func DiskShort(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return false
	}
	free := int64(st.Bavail) * st.Bsize
	return free < min(int64(st.Blocks)*st.Bsize/10, 1<<30)
}
