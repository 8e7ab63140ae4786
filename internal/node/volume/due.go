package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/client"
	"coracle/internal/filetree"
	"coracle/internal/podclaim"
	"coracle/internal/podstate"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// Kept is why the data of a volume are not removed though this node was told to: what the volume
// says of itself speaks against it. Only a change of the volume can make another answer.
type Kept struct{ Volume, Why string }

func (k *Kept) Error() string {
	return fmt.Sprintf("the data of volume %s stay: %s", k.Volume, k.Why)
}

// ErrNotAsked says that a volume is gone, or another node's to reclaim.
var ErrNotAsked = errors.New("this node is not told to remove its data any longer")

// Stays says that an error of Reclaim is final until the volume changes.
func Stays(err error) bool {
	var kept *Kept
	return errors.As(err, &kept)
}

// due reads at the API what the removal of a volume's data depends on: the volume, its claim, this
// node and its pods. It returns the volume as it is now, or why its data stay. What the caller saw,
// and what a watch has seen, is not asked: data that are removed do not come back.
func (m *Manager) due(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	obj, err := m.cfg.Client.Get(ctx, resource.PersistentVolumes, "", name)
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("reclaim volume %s: %w: %w", name, ErrNotAsked, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reclaim volume %s: %w", name, err)
	}
	pv := obj.(*corev1.PersistentVolume)
	if !m.Reclaims(pv) {
		return nil, fmt.Errorf("reclaim volume %s: %w", name, ErrNotAsked)
	}
	if why := reclaim.Keeps(pv); why != "" {
		return nil, &Kept{name, why}
	}
	for _, check := range []func(context.Context, *corev1.PersistentVolume) error{m.here, m.unused, m.unclaimed} {
		if err := check(ctx, pv); err != nil {
			return nil, err
		}
	}
	return pv, nil
}

// here checks that the volume's directory is its class's own on this node.
func (m *Manager) here(ctx context.Context, pv *corev1.PersistentVolume) error {
	dir := filepath.Dir(pv.Spec.HostPath.Path)
	if reclaim.Maker(pv) == reclaim.Local {
		obj, err := m.cfg.Client.Get(ctx, resource.Nodes, "", m.cfg.Node)
		if err != nil {
			return fmt.Errorf("reclaim volume %s: %w", pv.Name, err)
		}
		if on := reclaim.Hostname(pv); on != obj.GetLabels()[corev1.LabelHostname] {
			return &Kept{pv.Name, fmt.Sprintf("they are on the node with the host name %s, which %s is not", on, m.cfg.Node)}
		}
		return ownRoot(pv, dir, m.cfg.Root)
	}
	root := m.cfg.SharedRoot
	if same, err := sameDirectory(dir, root); err != nil || !same {
		if root, err = m.classRoot(ctx, pv); err != nil {
			return err
		}
	}
	return ownRoot(pv, dir, root)
}

// classRoot reads where the volume's class keeps its volumes.
func (m *Manager) classRoot(ctx context.Context, pv *corev1.PersistentVolume) (string, error) {
	obj, err := m.cfg.Client.Get(ctx, resource.StorageClasses, "", pv.Spec.StorageClassName)
	if apierrors.IsNotFound(err) {
		return "", &Kept{pv.Name, fmt.Sprintf("%s is not below %s, and the class %q that would vouch for it is gone: "+
			"remove the directory by hand, and then the finalizer %s", pv.Spec.HostPath.Path, m.cfg.SharedRoot, pv.Spec.StorageClassName, reclaim.DataFinalizer)}
	}
	if err != nil {
		return "", fmt.Errorf("reclaim volume %s: %w", pv.Name, err)
	}
	class := obj.(*storagev1.StorageClass)
	if root := class.Parameters[reclaim.PathParameter]; class.Provisioner == reclaim.Shared && filepath.IsAbs(root) {
		return root, nil
	}
	return m.cfg.SharedRoot, nil
}

func ownRoot(pv *corev1.PersistentVolume, dir, root string) error {
	same, err := sameDirectory(dir, root)
	if err != nil {
		return fmt.Errorf("reclaim volume %s: %w", pv.Name, err)
	}
	if !same {
		return &Kept{pv.Name, fmt.Sprintf("%s is not below %s, where its class keeps volumes", pv.Spec.HostPath.Path, root)}
	}
	return nil
}

// sameDirectory compares two directories by what they are, so that a link in the way to either is
// no difference. Both are the cluster's own, out of every pod's reach.
func sameDirectory(a, b string) (bool, error) {
	if a == b {
		return true, nil
	}
	one, err := filetree.At(a)
	if err != nil {
		return false, err
	}
	defer one.Close()
	other, err := filetree.At(b)
	if err != nil {
		return false, err
	}
	defer other.Close()
	return one.Stat.Dev == other.Stat.Dev && one.Stat.Ino == other.Stat.Ino, nil
}

// unclaimed checks that no claim has the volume.
func (m *Manager) unclaimed(ctx context.Context, pv *corev1.PersistentVolume) error {
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return nil
	}
	obj, err := m.cfg.Client.Get(ctx, resource.PersistentVolumeClaims, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reclaim volume %s: %w", pv.Name, err)
	}
	if reclaim.Holds(obj.(*corev1.PersistentVolumeClaim), pv) {
		return fmt.Errorf("reclaim volume %s: the claim %s/%s has it", pv.Name, ref.Namespace, ref.Name)
	}
	return nil
}

// unused checks that no pod of this node that has not ended uses the volume's claim, or its
// directory.
func (m *Manager) unused(ctx context.Context, pv *corev1.PersistentVolume) error {
	if m.inUse(filepath.Clean(pv.Spec.HostPath.Path)) {
		return fmt.Errorf("reclaim volume %s: a pod still uses it", pv.Name)
	}
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return nil
	}
	pods, _, err := m.cfg.Client.List(ctx, resource.Pods, client.ListOptions{Namespace: ref.Namespace, FieldSelector: "spec.nodeName=" + m.cfg.Node})
	if err != nil {
		return fmt.Errorf("reclaim volume %s: %w", pv.Name, err)
	}
	for _, obj := range pods {
		pod := obj.(*corev1.Pod)
		if ended := podstate.Ended(pod); !ended && podclaim.Uses(pod, ref.Name) {
			return fmt.Errorf("reclaim volume %s: pod %s/%s still uses it", pv.Name, pod.Namespace, pod.Name)
		}
	}
	return nil
}
