package container

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kernel's units for CPU: shares for requests, quota in each period for limits.
const (
	cpuPeriod   = 100_000 // microseconds
	minQuota    = 1_000
	minShares   = 2
	maxShares   = 262_144
	sharesPerCP = 1024
)

// Resources turns a container's requests and limits into cgroup settings. Memory is the node's
// capacity in bytes, against which the burstable classes are told apart when memory runs out.
func Resources(pod *corev1.Pod, c *corev1.Container, memory int64, qos corev1.PodQOSClass) *runtimeapi.LinuxContainerResources {
	r := fromQuantities(c.Resources)
	r.OomScoreAdj = oomScore(pod, c, memory, qos)
	return r
}

func fromQuantities(req corev1.ResourceRequirements) *runtimeapi.LinuxContainerResources {
	request, limit := req.Requests[corev1.ResourceCPU], req.Limits[corev1.ResourceCPU]
	if _, asked := req.Requests[corev1.ResourceCPU]; !asked {
		request = limit
	}
	r := &runtimeapi.LinuxContainerResources{CpuShares: shares(request), CpuPeriod: cpuPeriod}
	if m := limit.MilliValue(); m > 0 {
		r.CpuQuota = max(m*cpuPeriod/1000, minQuota)
	}
	memory := req.Limits[corev1.ResourceMemory]
	r.MemoryLimitInBytes = memory.Value()
	return r
}

func shares(cpu resource.Quantity) int64 {
	return min(max(cpu.MilliValue()*sharesPerCP/1000, minShares), maxShares)
}

// oomScore follows https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior.
func oomScore(pod *corev1.Pod, c *corev1.Container, capacity int64, qos corev1.PodQOSClass) int64 {
	if p := pod.Spec.Priority; p != nil && *p >= 2_000_000_000 {
		return -997
	}
	switch qos {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if capacity <= 0 {
		return 999
	}
	request := c.Resources.Requests[corev1.ResourceMemory]
	return min(max(1000-1000*request.Value()/capacity, 3), 999)
}

// PodResources sums what the pod's containers ask for, for the pod's own cgroup: requests of all,
// limits only where every container has one. Init containers that end count by the largest.
func PodResources(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	if pod.Spec.Resources != nil {
		return fromQuantities(*pod.Spec.Resources)
	}
	total := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit, limited := sum(pod, name)
		total.Requests[name] = request
		if limited {
			total.Limits[name] = limit
		}
	}
	return fromQuantities(total)
}

// overhead is what the pod costs beside its containers (KEP-688); nil for most.
func overhead(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	if len(pod.Spec.Overhead) == 0 {
		return nil
	}
	return fromQuantities(corev1.ResourceRequirements{Limits: pod.Spec.Overhead})
}

func sum(pod *corev1.Pod, name corev1.ResourceName) (request, limit resource.Quantity, limited bool) {
	limited = true
	add := func(c *corev1.Container) {
		r, l := c.Resources.Requests[name], c.Resources.Limits[name]
		request.Add(r)
		limit.Add(l)
		limited = limited && !l.IsZero()
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil {
			add(c)
			continue
		}
		l := c.Resources.Limits[name]
		limited = limited && !l.IsZero()
		if r := c.Resources.Requests[name]; r.Cmp(request) > 0 {
			request = r
		}
		if l.Cmp(limit) > 0 {
			limit = l
		}
	}
	return request, limit, limited
}

// CgroupParent returns the cgroup of a pod under root: one level for the two lesser classes of
// service, one for the pod, as the kubelet lays them out.
func CgroupParent(root string, pod *corev1.Pod, qos corev1.PodQOSClass) string {
	leaf := "pod" + string(pod.UID)
	switch qos {
	case corev1.PodQOSBestEffort:
		return path.Join(root, "besteffort", leaf)
	case corev1.PodQOSBurstable:
		return path.Join(root, "burstable", leaf)
	}
	return path.Join(root, leaf)
}
