package place

import (
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/workload/placement"
)

// maxScore is the most one criterion can add.
const maxScore = 100

// score compares nodes that can take a pod: room left first (upstream's LeastAllocated), even
// use of CPU and memory, the pod's preferences among nodes, and taints it would rather avoid.
func score(p *Pod, n *Node) int64 {
	cpu := free(n.scoring.CPU+p.scoring.CPU, n.Allocatable.CPU)
	memory := free(n.scoring.Memory+p.scoring.Memory, n.Allocatable.Memory)
	total := (cpu + memory) / 2
	total += maxScore - abs(cpu-memory)
	// The fewer siblings a node already runs, the better: replicas spread without being told to.
	total += 2 * maxScore / (1 + n.ownedBy(p.owner))
	total += p.imagesOn(n)
	if p.preferred != nil {
		total += 2 * p.preferred.Score(n.Object)
	}
	for i := range n.Object.Spec.Taints {
		t := &n.Object.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !placement.Tolerates(p.Object.Spec.Tolerations, t) {
			total -= 3 * maxScore
		}
	}
	return total
}

// imagesOn scores the bytes of the pod's images that a node already has, up to a gigabyte
// (upstream's ImageLocality).
func (p *Pod) imagesOn(n *Node) int64 {
	const plenty = 1 << 30
	var have int64
	for _, name := range p.images {
		have += n.images[name]
	}
	return maxScore * min(have, plenty) / plenty
}

// free is the share that would be left, of maxScore.
func free(used, have int64) int64 {
	if have <= 0 || used > have {
		return 0
	}
	return (have - used) * maxScore / have
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}
