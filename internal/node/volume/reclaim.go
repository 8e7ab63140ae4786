package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/filetree"
	"coracle/internal/resource"
)

// How a volume's data is given up: the volume controller names the node whose agent removes them,
// and the agent then removes the finalizer that kept the object.
const (
	DataFinalizer   = "coracle.io/volume-data"
	ReclaimBy       = "coracle.io/reclaim-by"
	deletePolicy    = corev1.PersistentVolumeReclaimDelete
	reclaimedSuffix = ".reclaimed"
)

// Reclaims says whether this node is told to remove the data of a volume.
func (m *Manager) Reclaims(pv *corev1.PersistentVolume) bool {
	return pv.Annotations[ReclaimBy] == m.cfg.Node && slices.Contains(pv.Finalizers, DataFinalizer)
}

// Reclaim removes the data of a released volume of the built-in classes, and then its finalizer.
// It refuses a path that is not plainly that volume's own.
func (m *Manager) Reclaim(ctx context.Context, pv *corev1.PersistentVolume) error {
	if pv.Spec.PersistentVolumeReclaimPolicy != deletePolicy || pv.Spec.HostPath == nil {
		return fmt.Errorf("reclaim volume %s: only hostPath volumes with reclaim policy Delete are removed", pv.Name)
	}
	path := filepath.Clean(pv.Spec.HostPath.Path)
	if !filepath.IsAbs(path) || filepath.Base(path) != pv.Name || filepath.Dir(path) == "/" {
		return fmt.Errorf("reclaim volume %s: %s is not a directory of that volume alone", pv.Name, path)
	}
	if m.inUse(path) {
		return fmt.Errorf("reclaim volume %s: a pod still uses it", pv.Name)
	}
	if err := removeData(path); err != nil {
		return fmt.Errorf("reclaim volume %s: %w", pv.Name, err)
	}
	next := pv.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == DataFinalizer })
	if _, err := m.cfg.Client.Update(ctx, next, ""); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reclaim volume %s: remove finalizer: %w", pv.Name, err)
	}
	m.cfg.Log.Info("removed the data of a released volume", "resource", resource.PersistentVolumes.String(), "name", pv.Name, "path", path)
	return nil
}

// removeData moves the directory out of the way first, so that a half-removed volume is never
// taken for a whole one. Nothing is removed while something is mounted in it.
func removeData(path string) error {
	points, err := filetree.MountsBelow(path)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return &filetree.MountError{Path: points[0]}
	}
	root, err := filetree.OpenDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Base(path)
	gone := name + reclaimedSuffix
	if err := root.Remove(gone); err != nil { // an earlier removal was cut short
		return err
	}
	if err := root.Rename(name, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return root.Remove(gone)
}

func (m *Manager) inUse(path string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, st := range m.pods {
		for _, src := range st.paths {
			if src.path == path {
				return true
			}
		}
	}
	return false
}
