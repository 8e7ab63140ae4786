package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/filetree"
)

// Overfull says of the first emptyDir on disk that holds more than its size limit why the pod must go, in words for
// its status; empty when there is none.
func (m *Manager) Overfull(ctx context.Context, pod *corev1.Pod) (message string, err error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.IsZero() {
			continue
		}
		limit := v.EmptyDir.SizeLimit
		used, err := usage(ctx, m.volumeDir(pod.UID, v.Name), limit.Value())
		switch {
		case errors.Is(err, filetree.ErrTooDeep):
			// What cannot be measured cannot be held to its limit.
			return fmt.Sprintf("EmptyDir volume %q counts as over its limit %q: %v. ", v.Name, limit.String(), err), nil
		case err != nil:
			return "", err
		case used > limit.Value():
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String()), nil
		}
	}
	return "", nil
}

// OnDisk is how many bytes the emptyDirs on disk of a pod hold together.
func (m *Manager) OnDisk(ctx context.Context, pod *corev1.Pod) (total int64, err error) {
	for i := range pod.Spec.Volumes {
		if d := pod.Spec.Volumes[i].EmptyDir; d == nil || d.Medium != corev1.StorageMediumDefault {
			continue
		}
		used, err := Usage(ctx, m.volumeDir(pod.UID, pod.Spec.Volumes[i].Name))
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

// Usage is how many bytes a directory holds with all below it; none where there is no directory.
func Usage(ctx context.Context, dir string) (int64, error) {
	used, err := usage(ctx, dir, noLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return used, err
}

// noLimit measures a whole volume.
const noLimit = math.MaxInt64

// errEnough ends a measurement whose answer is known.
var errEnough = errors.New("more than the limit")

// usage sums the blocks of the files below dir, each file once however many names it has. It stops looking once the
// sum is above limit.
func usage(ctx context.Context, dir string, limit int64) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var total int64
	err := filetree.Survey(dir, func(e *filetree.Entry) error {
		if id := (inode{e.Stat.Dev, e.Stat.Ino}); e.Stat.Nlink > 1 && !e.IsDir() {
			if seen[id] {
				return ctx.Err()
			}
			seen[id] = true
		}
		if total += e.Stat.Blocks * 512; total > limit {
			return errEnough
		}
		return ctx.Err()
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return total, err
}
