package cgroup

import (
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// WithOverhead adds what a sandbox itself is said to need to the limits of its
// containers. What has no limit stays without one.
func WithOverhead(r, overhead *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	if r == nil || overhead == nil {
		return r
	}
	out := proto.CloneOf(r)
	out.CpuShares += overhead.GetCpuShares()
	if out.MemoryLimitInBytes > 0 {
		out.MemoryLimitInBytes += overhead.GetMemoryLimitInBytes()
	}
	if out.CpuQuota > 0 && overhead.GetCpuQuota() > 0 {
		// Quotas of different periods: the overhead's, as one of ours.
		period := max(overhead.GetCpuPeriod(), 1)
		out.CpuQuota += overhead.GetCpuQuota() * max(out.CpuPeriod, 1) / period
	}
	return out
}
