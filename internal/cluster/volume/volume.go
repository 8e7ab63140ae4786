// Package volume makes the claims of ephemeral volumes, binds claims to volumes, makes volumes for claims of the
// built-in classes, and reclaims them.
//
// It owns pure planners: the binder's two halves (claims, volumes) and the storage-in-use
// protections. The two built-in provisioners make directories: coracle.io/local on the node the
// pod is placed on, coracle.io/shared below a directory that all nodes see. The directory itself
// is made by the node that mounts it and removed by the node that the label coracle.io/reclaim-by
// names, once package reclaim lets it. It refuses to make volumes for provisioners it does not know: it
// leaves them upstream's annotations and waits.
package volume

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helper "k8s.io/component-helpers/storage/volume"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podclaim"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// The built-in provisioners.
const (
	Local  = reclaim.Local
	Shared = reclaim.Shared
)

const (
	// RootAnnotation is where a node says that it keeps its local volumes.
	RootAnnotation = "coracle.io/volume-root"
)

const (
	pvcProtection = "kubernetes.io/pvc-protection"
	pvProtection  = "kubernetes.io/pv-protection"
	binder        = "persistentvolume-controller"
	noProvisioner = "kubernetes.io/no-provisioner"
	yes           = "yes"
)

// Config is what the planners need to know besides the cluster.
type Config struct {
	// SharedRoot is the directory of shared volumes on every node.
	SharedRoot string
}

// Controllers returns the planners.
func Controllers(cfg Config) []plan.Controller {
	return []plan.Controller{cfg.claims(), volumes(), ephemeralClaims(), claimProtection(), volumeProtection()}
}

const defaultClass = "storageclass.kubernetes.io/is-default-class"

const (
	// indexPending files claims not yet bound under their class.
	indexPending = "volume.pending"
	// indexSelected files claims not yet bound under the node selected for them.
	indexSelected = "volume.selected"
	// indexFree files volumes that no claim holds under their class.
	indexFree = "volume.free"
	// indexClaim files volumes under the claim they name.
	indexClaim = "volume.claim"
	// indexReclaim files volumes whose directory is to be removed under "true".
	indexReclaim = "volume.reclaim"
	// indexUsers files pods under the claims they use.
	indexUsers = "volume.users"
)

var indexes = []object.Index{
	{Resource: resource.PersistentVolumeClaims, Name: indexPending, Values: func(o object.Object) []string {
		c := o.(*corev1.PersistentVolumeClaim)
		if isBound(c) {
			return nil
		}
		return []string{helper.GetPersistentVolumeClaimClass(c)}
	}},
	{Resource: resource.PersistentVolumeClaims, Name: indexSelected, Values: func(o object.Object) []string {
		c := o.(*corev1.PersistentVolumeClaim)
		if node := c.Annotations[helper.AnnSelectedNode]; node != "" && !isBound(c) {
			return []string{node}
		}
		return nil
	}},
	{Resource: resource.PersistentVolumes, Name: indexFree, Values: func(o object.Object) []string {
		v := o.(*corev1.PersistentVolume)
		if v.Spec.ClaimRef != nil {
			return nil
		}
		return []string{helper.GetPersistentVolumeClass(v)}
	}},
	{Resource: resource.PersistentVolumes, Name: indexClaim, Values: func(o object.Object) []string {
		if ref := o.(*corev1.PersistentVolume).Spec.ClaimRef; ref != nil {
			return []string{claimKey(ref).String()}
		}
		return nil
	}},
	{Resource: resource.PersistentVolumes, Name: indexReclaim, Values: func(o object.Object) []string {
		if v := o.(*corev1.PersistentVolume); slices.Contains(v.Finalizers, reclaim.DataFinalizer) &&
			(v.Status.Phase == corev1.VolumeReleased || v.DeletionTimestamp != nil) {
			return []string{"true"}
		}
		return nil
	}},
	{Resource: resource.Pods, Name: indexUsers, Values: func(o object.Object) []string {
		p := o.(*corev1.Pod)
		var out []string
		for _, name := range podclaim.All(p) {
			out = append(out, object.Key{Namespace: p.Namespace, Name: name}.String())
		}
		return out
	}},
}

func claimKey(ref *corev1.ObjectReference) object.Key {
	return object.Key{Namespace: ref.Namespace, Name: ref.Name}
}

// isBound says that a claim's binding is complete on the claim's side.
func isBound(c *corev1.PersistentVolumeClaim) bool {
	return c.Annotations[helper.AnnBindCompleted] != ""
}

func getClaim(r object.Reader, k object.Key) *corev1.PersistentVolumeClaim {
	if o, ok := r.Get(resource.PersistentVolumeClaims, k.Namespace, k.Name); ok {
		return o.(*corev1.PersistentVolumeClaim)
	}
	return nil
}

func getVolume(r object.Reader, name string) *corev1.PersistentVolume {
	if o, ok := r.Get(resource.PersistentVolumes, "", name); ok {
		return o.(*corev1.PersistentVolume)
	}
	return nil
}

func getNode(r object.Reader, name string) *corev1.Node {
	if o, ok := r.Get(resource.Nodes, "", name); ok {
		return o.(*corev1.Node)
	}
	return nil
}

// nodeReady says whether there is a node and it is ready.
func nodeReady(n *corev1.Node) bool {
	if n == nil {
		return false
	}
	ready := nodestate.Ready(n)
	return ready
}

func keysOf(objects []object.Object) []object.Key {
	keys := make([]object.Key, len(objects))
	for i, o := range objects {
		keys[i] = object.KeyOf(o)
	}
	return keys
}

func without(list []string, item string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == item })
}

func annotate(m *metav1.ObjectMeta, key, value string) {
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[key] = value
}

func event(about object.Object, kind, reason, message string) plan.Event {
	return plan.Event{Regarding: object.RefOf(about), Type: kind, Reason: reason, Message: message}
}
