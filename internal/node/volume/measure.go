package volume

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Overfull returns the first emptyDir on disk that holds more than its size limit; name is empty
// when there is none.
func (m *Manager) Overfull(ctx context.Context, pod *corev1.Pod) (name string, limit *resource.Quantity, err error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.IsZero() {
			continue
		}
		used, err := usage(ctx, filepath.Join(m.PodDir(pod.UID), "volumes", v.Name))
		if err != nil {
			return "", nil, err
		}
		if used > v.EmptyDir.SizeLimit.Value() {
			return v.Name, v.EmptyDir.SizeLimit, nil
		}
	}
	return "", nil, nil
}

// usage sums the blocks of the files below dir, each file once however many names it has.
func usage(ctx context.Context, dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			id := inode{st.Dev, st.Ino}
			if st.Nlink > 1 && !d.IsDir() {
				if seen[id] {
					return nil
				}
				seen[id] = true
			}
			total += st.Blocks * 512
		}
		return ctx.Err()
	})
	return total, err
}
