// Package volume makes the volumes of a node's pods ready, keeps those that follow API objects up
// to date, and removes them without trace.
//
// It owns the pod directories under its root - emptyDirs, projected files, sub-path mounts - and the data directories
// of the built-in storage classes, and fences them off from the node's users. It refuses to act by path on what pods can
// change, to follow a path out of a volume, to remove anything while something is still mounted below it, and volume
// kinds that need a driver. Behaviour: https://kubernetes.io/docs/concepts/storage/volumes/.
package volume

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/filetree"
	"coracle/internal/node/container"
	"coracle/internal/node/objects"
	"coracle/internal/node/podlogs"
	"coracle/internal/podclaim"
)

// Config says where volumes live and how to reach what they hold.
type Config struct {
	// Pods is the directory of the pod directories: PODS/UID/.
	Pods string
	// Root holds the volumes of the node-local class (annotation coracle.io/volume-root).
	Root string
	// SharedRoot is where the shared class keeps its volumes, unless a class says otherwise.
	SharedRoot string
	// Node is the node's name.
	Node   string
	Client client.Interface
	Hub    *objects.Hub
	// Allocatable of the node, for resource fields of the downward API.
	Allocatable func() corev1.ResourceList
	// PodLogs are shown in the place of the host's.
	PodLogs podlogs.Place
	// Points makes what they are mounted on where the host lacks it.
	Points podlogs.Points
	// Changed is called when an object that a pod's volumes show, or wait for, has changed.
	Changed func(pod types.UID)
	Log     *slog.Logger
	// Offline, when set, says that the API has no say now: it does not answer, or is not the one whose pods these are.
	Offline func() bool
	// Now is the clock for token lifetimes.
	Now func() time.Time
}

// Manager makes volumes ready. Its methods are safe for concurrent use; calls for one pod must
// not overlap.
type Manager struct {
	cfg Config

	mu   sync.Mutex
	pods map[types.UID]*mounted
}

// mounted is what is known of one pod's volumes.
type mounted struct {
	unsubscribe map[objects.Ref]func()
	paths       map[string]source
	tokens      map[string]token // by volume and path
	claims      []claimUse
	// recalled is what an earlier manager had made ready.
	recalled map[string]Ready
}

// source is a ready volume.
type source struct {
	path string
	// kind is what must lie there, in the words of filetree.Entry.Kind; empty for anything.
	kind     string
	readOnly bool
	// host is the path of the host that a pod or a volume of the user's names; empty for all others.
	host string
	// image is, for an image volume, what the runtime mounts (KEP-4639); nothing lies at path then.
	image string
}

// New returns a manager.
func New(cfg Config) (*Manager, error) {
	for _, dir := range []string{cfg.Pods, cfg.Root} {
		if err := makeDir(dir, 0o755); err != nil {
			return nil, fmt.Errorf("volumes: %w", err)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Manager{cfg: cfg, pods: map[types.UID]*mounted{}}, nil
}

// PodDir returns the directory of what belongs to one pod alone.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.cfg.Pods, string(uid)) }

func (m *Manager) volumeDir(pod types.UID, volume string) string {
	return filepath.Join(m.PodDir(pod), "volumes", volume)
}

// Mount makes all volumes of a pod ready, or fails with the first reason why not, in words for
// the FailedMount event. It may be called again at any time: what is ready stays, what shows an
// API object is brought up to date. Refresh is when a token must be renewed; zero means never.
func (m *Manager) Mount(ctx context.Context, pod *corev1.Pod, facts container.Facts) (refresh time.Time, err error) {
	st := m.state(pod.UID)
	m.subscribe(pod, st)
	for _, dir := range []string{m.PodDir(pod.UID), filepath.Join(m.PodDir(pod.UID), "volumes")} {
		if err := makeDir(dir, 0o750); err != nil {
			return time.Time{}, err
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		src, left, err := m.asLeft(v, st)
		again := m.cfg.Now() // what was only left as it was is asked for as soon as the API answers
		if !left {
			src, again, err = m.prepare(ctx, pod, v, facts, st)
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
		if !again.IsZero() && (refresh.IsZero() || again.Before(refresh)) {
			refresh = again
		}
		m.mu.Lock()
		st.paths[v.Name] = src
		m.mu.Unlock()
	}
	return refresh, nil
}

func (m *Manager) state(uid types.UID) *mounted {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.pods[uid]
	if st == nil {
		st = &mounted{unsubscribe: map[objects.Ref]func(){}, paths: map[string]source{}, tokens: map[string]token{}}
		m.pods[uid] = st
	}
	return st
}

// prepare makes one volume ready.
func (m *Manager) prepare(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, facts container.Facts, st *mounted) (source, time.Time, error) {
	switch {
	case v.EmptyDir != nil:
		src, err := m.emptyDir(pod, v)
		return src, time.Time{}, err
	case v.HostPath != nil:
		src, err := m.hostPath(v.HostPath.Path, v.HostPath.Type)
		return src, time.Time{}, err
	case v.PersistentVolumeClaim != nil:
		src, err := m.claim(ctx, pod, v.PersistentVolumeClaim.ClaimName, claimFor{readOnly: v.PersistentVolumeClaim.ReadOnly}, st)
		return src, time.Time{}, err
	case v.Ephemeral != nil:
		// The claim of a generic ephemeral volume is named after pod and volume (KEP-1698).
		src, err := m.claim(ctx, pod, podclaim.Of(pod, v), claimFor{made: true}, st)
		return src, time.Time{}, err
	case v.Image != nil:
		return source{image: v.Image.Reference, readOnly: true}, time.Time{}, nil
	case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil:
		return m.files(ctx, pod, v, facts, st)
	}
	return source{}, time.Time{}, fmt.Errorf("no volume plugin matched: volumes of this kind are not supported on node %s", m.cfg.Node)
}

// Release unmounts and removes all that belongs to a pod alone. Data of claims and host paths stay.
func (m *Manager) Release(uid types.UID) error {
	m.mu.Lock()
	st := m.pods[uid]
	delete(m.pods, uid)
	m.mu.Unlock()
	if st != nil {
		for _, stop := range st.unsubscribe {
			stop()
		}
	}
	dir := m.PodDir(uid)
	if err := filetree.UnmountBelow(dir); err != nil {
		return err
	}
	return filetree.Remove(dir)
}

// Pods returns the pods that have a directory.
func (m *Manager) Pods() ([]types.UID, error) {
	dir, err := filetree.OpenDir(m.cfg.Pods)
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	out := make([]types.UID, 0, len(names))
	for _, name := range names {
		out = append(out, types.UID(name))
	}
	return out, nil
}

// subscribe watches the objects that the pod's volumes show, no more and no less.
func (m *Manager) subscribe(pod *corev1.Pod, st *mounted) {
	for _, ref := range refs(pod) {
		if _, have := st.unsubscribe[ref]; have {
			continue
		}
		st.unsubscribe[ref] = m.cfg.Hub.Subscribe(ref, func() { m.cfg.Changed(pod.UID) })
	}
}
