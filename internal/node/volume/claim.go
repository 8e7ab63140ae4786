package volume

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	ephemeralvolume "k8s.io/component-helpers/storage/ephemeral"

	"coracle/internal/filetree"
	"coracle/internal/node/objects"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// The built-in classes' provisioners, as PVs name them in the annotation provisionedBy.
const (
	provisionedBy = "pv.kubernetes.io/provisioned-by"
	localClass    = reclaim.Local
	sharedClass   = reclaim.Shared
)

// claimUse is one claim that a pod uses.
type claimUse struct {
	namespace, name string
	exclusive       bool // ReadWriteOncePod
}

// claimFor is how a pod uses a claim.
type claimFor struct {
	readOnly bool
	made     bool // for this pod: it must be the owner (KEP-1698)
}

// claim makes a persistent volume ready: it must be bound, reachable from this node and, for
// ReadWriteOncePod, free.
func (m *Manager) claim(ctx context.Context, pod *corev1.Pod, name string, use claimFor, st *mounted) (source, error) {
	obj, err := m.cfg.Hub.Get(ctx, objects.Ref{Resource: resource.PersistentVolumeClaims, Namespace: pod.Namespace, Name: name})
	if err != nil {
		return source{}, fmt.Errorf("error processing PVC %s/%s: failed to fetch PVC from API server: %w", pod.Namespace, name, err)
	}
	pvc := obj.(*corev1.PersistentVolumeClaim)
	if use.made {
		if err := ephemeralvolume.VolumeIsForPod(pod, pvc); err != nil {
			return source{}, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
		}
	}
	if pvc.DeletionTimestamp != nil && !m.holds(st, pod.Namespace, name) {
		return source{}, fmt.Errorf("error processing PVC %s/%s: PVC is being deleted", pod.Namespace, name)
	}
	if pvc.Spec.VolumeName == "" || pvc.Status.Phase != corev1.ClaimBound {
		return source{}, fmt.Errorf("error processing PVC %s/%s: PVC is not bound", pod.Namespace, name)
	}
	// Volumes are not watched one by one: what is read here of a bound one does not change.
	got, err := m.cfg.Client.Get(ctx, resource.PersistentVolumes, "", pvc.Spec.VolumeName)
	if err != nil {
		return source{}, fmt.Errorf("error processing PVC %s/%s: failed to fetch PV %s from API server: %w", pod.Namespace, name, pvc.Spec.VolumeName, err)
	}
	pv := got.(*corev1.PersistentVolume)
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != pvc.UID {
		return source{}, fmt.Errorf("error processing PVC %s/%s: PV %s is bound to another claim", pod.Namespace, name, pv.Name)
	}
	if err := m.use(pod, st, claimUse{pod.Namespace, name, slices.Contains(pvc.Spec.AccessModes, corev1.ReadWriteOncePod)}); err != nil {
		return source{}, err
	}
	if err := mountable(pv); err != nil {
		return source{}, err
	}
	if err := m.ownPlace(pv); err != nil {
		return source{}, err
	}
	src, err := m.persistent(pv)
	if err != nil {
		return source{}, err
	}
	src.readOnly = use.readOnly || !writable(pv.Spec.AccessModes)
	// Only what a pod may be given whole takes the pod's group.
	if group := fsGroup(pod); group != nil && !src.readOnly && (builtIn(pv) || pv.Spec.Local != nil) {
		root, err := filetree.At(src.path)
		if err != nil {
			return source{}, err
		}
		defer root.Close()
		if err := (ownership{recursive: !rootMatches(pod, root, *group), write: true}).apply(root, *group); err != nil {
			return source{}, err
		}
	}
	return src, nil
}

// mountable refuses what a volume asks for that this node does not do.
func mountable(pv *corev1.PersistentVolume) error {
	switch {
	case pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return fmt.Errorf("volumeMode Block of PersistentVolume %s is not supported: this node gives containers file systems", pv.Name)
	case len(pv.Spec.MountOptions) > 0:
		return fmt.Errorf("mountOptions of PersistentVolume %s are not supported: this node mounts directories, which take none", pv.Name)
	}
	return nil
}

func writable(modes []corev1.PersistentVolumeAccessMode) bool {
	for _, mode := range modes {
		if mode != corev1.ReadOnlyMany {
			return true
		}
	}
	return false
}

// persistent finds a volume's data on this node.
func (m *Manager) persistent(pv *corev1.PersistentVolume) (source, error) {
	switch {
	case pv.Spec.HostPath != nil && builtIn(pv):
		return builtInDir(filepath.Clean(pv.Spec.HostPath.Path))
	case pv.Spec.HostPath != nil:
		return m.hostPath(pv.Spec.HostPath.Path, pv.Spec.HostPath.Type)
	case pv.Spec.Local != nil:
		e, err := filetree.At(pv.Spec.Local.Path)
		if err != nil {
			return source{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
		}
		defer e.Close()
		if !e.IsDir() {
			return source{}, fmt.Errorf("local volume %s: %s is a %s, and this node formats and mounts none: name a directory",
				pv.Name, pv.Spec.Local.Path, e.Kind())
		}
		return source{path: pv.Spec.Local.Path, kind: e.Kind()}, nil
	}
	return source{}, fmt.Errorf("no volume plugin matched PersistentVolume %s: this node mounts hostPath and local volumes", pv.Name)
}

// ownPlace refuses a volume that passes for one of the built-in classes' and lies elsewhere: what such a volume is, a
// directory open to all pods' users that takes a pod's group with all that is in it, no other directory of the node's may
// become. Where a shared class keeps its volumes is the class's to say, and a volume outlives its class.
func (m *Manager) ownPlace(pv *corev1.PersistentVolume) error {
	host := pv.Spec.HostPath
	if host == nil || !builtIn(pv) {
		return nil
	}
	if filepath.Base(host.Path) != pv.Name || filepath.Clean(host.Path) != host.Path {
		return fmt.Errorf("PersistentVolume %s says that a built-in class made it, and its path %s is no directory named after it: "+
			"a hostPath volume of your own has no annotation %s and no finalizer %s", pv.Name, host.Path, provisionedBy, DataFinalizer)
	}
	if pv.Annotations[provisionedBy] == sharedClass {
		return nil
	}
	// A directory that is missing is not the root, which was made when the node began.
	if same, err := sameDirectory(filepath.Dir(host.Path), m.cfg.Root); err != nil || !same {
		return fmt.Errorf("PersistentVolume %s says that the class %s made it, and its path %s is not below %s, "+
			"where node %s keeps such volumes", pv.Name, localClass, host.Path, m.cfg.Root, m.cfg.Node)
	}
	return nil
}

// builtInDir finds or makes the directory of a volume of the built-in classes. Nobody but agents has business where it
// lies: a link in its place is refused, and so is anything that is mounted there.
func builtInDir(path string) (source, error) {
	root, err := filetree.MakeDir(filepath.Dir(path), 0o755)
	if err != nil {
		return source{}, err
	}
	defer root.Close()
	// As from any provisioner: a container that is not root must be able to write.
	dir, err := root.Make(filepath.Base(path), 0o777)
	if err != nil {
		return source{}, err
	}
	dir.Close()
	return source{path: path, kind: "directory"}, nil
}

func builtIn(pv *corev1.PersistentVolume) bool {
	by := pv.Annotations[provisionedBy]
	return by == localClass || by == sharedClass || slices.Contains(pv.Finalizers, DataFinalizer)
}

func (m *Manager) holds(st *mounted, namespace, name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(st.claims, func(c claimUse) bool { return c.namespace == namespace && c.name == name })
}

// use notes that a pod uses a claim, unless it is another pod's alone (KEP-2485).
func (m *Manager) use(pod *corev1.Pod, st *mounted, use claimUse) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if use.exclusive {
		for uid, other := range m.pods {
			if uid != pod.UID && slices.Contains(other.claims, use) {
				return fmt.Errorf("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
			}
		}
	}
	if !slices.Contains(st.claims, use) {
		st.claims = append(st.claims, use)
	}
	return nil
}
