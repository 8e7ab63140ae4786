package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/filetree"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// DataFinalizer keeps a volume's object until its directory is removed.
const DataFinalizer = reclaim.DataFinalizer

const reclaimedSuffix = ".reclaimed"

// Reclaims says whether this node is told to remove the data of a volume.
func (m *Manager) Reclaims(pv *corev1.PersistentVolume) bool {
	return reclaim.Assigned(pv) == m.cfg.Node
}

// Reclaim removes the data of a volume of the built-in classes that the volume controller has given
// to this node, and then its finalizer. It refuses unless what the API says now, of the volume, its
// claim and the pods here, gives the data up (due).
func (m *Manager) Reclaim(ctx context.Context, name string) error {
	pv, err := m.due(ctx, name)
	if err != nil {
		return err
	}
	path := filepath.Clean(pv.Spec.HostPath.Path)
	if err := removeData(path); err != nil {
		return fmt.Errorf("reclaim volume %s: %w", pv.Name, err)
	}
	if _, err := m.cfg.Client.Update(ctx, reclaim.Done(pv), ""); err != nil && !apierrors.IsNotFound(err) {
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
