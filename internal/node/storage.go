package node

import (
	"context"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
	"coracle/internal/node/podsync"
	"coracle/internal/node/volume"
)

// storageLimits are the limits of a pod's containers on local storage, by their names, and their sum; nil where there are
// none. Init containers that end count by the largest, as they run one after the other.
func storageLimits(pod *corev1.Pod) (each map[string]quantity.Quantity, sum quantity.Quantity) {
	add := func(c *corev1.Container) (limit quantity.Quantity, limited bool) {
		limit, limited = c.Resources.Limits[corev1.ResourceEphemeralStorage]
		if limited {
			if each == nil {
				each = map[string]quantity.Quantity{}
			}
			each[c.Name] = limit
		}
		return limit, limited
	}
	for i := range pod.Spec.Containers {
		if limit, ok := add(&pod.Spec.Containers[i]); ok {
			sum.Add(limit)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		switch limit, ok := add(c); {
		case !ok:
		case podsync.IsSidecar(c):
			sum.Add(limit)
		case limit.Cmp(sum) > 0:
			sum = limit
		}
	}
	return each, sum
}

// overStorage says why a pod whose containers hold more local storage than they are limited to must go, in the kubelet's
// words; empty when they do not. What a container wrote into its own file system counts, and its logs; for the pod its
// volumes on disk as well (https://kubernetes.io/docs/concepts/storage/ephemeral-storage/).
func (w *worker) overStorage(ctx context.Context, pod *corev1.Pod) (message string, err error) {
	limits, most := storageLimits(pod)
	if limits == nil {
		return "", nil
	}
	stats, err := w.a.cri.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{
		Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{cri.PodUID: string(pod.UID)}},
	})
	if err != nil {
		return "", fmt.Errorf("measure containers: %w", err)
	}
	used := map[string]int64{}
	for _, s := range stats.Stats {
		used[s.GetAttributes().GetMetadata().GetName()] += int64(s.GetWritableLayer().GetUsedBytes().GetValue())
	}
	var total int64
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			name := list[i].Name
			logs, err := volume.Usage(ctx, filepath.Join(w.logDir(), name))
			if err != nil {
				return "", err
			}
			total += used[name] + logs
			if limit, limited := limits[name]; limited && used[name]+logs > limit.Value() {
				return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", name, limit.String()), nil
			}
		}
	}
	held, err := w.a.volumes.OnDisk(ctx, pod)
	if err != nil {
		return "", err
	}
	if total+held > most.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", most.String()), nil
	}
	return "", nil
}
