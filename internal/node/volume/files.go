package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/filetree"
	"coracle/internal/node/container"
	"coracle/internal/node/objects"
	"coracle/internal/podclaim"
	"coracle/internal/resource"
)

// files makes a volume of files from the API ready, or brings it up to date.
func (m *Manager) files(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, facts container.Facts, st *mounted) (source, time.Time, error) {
	g := gather{m: m, ctx: ctx, pod: pod, facts: facts, volume: v.Name, st: st, out: map[string]file{}}
	dir := m.volumeDir(pod.UID, v.Name)
	var err error
	switch {
	case v.ConfigMap != nil:
		err = g.configMap(v.ConfigMap.Name, v.ConfigMap.Items, modeOf(v.ConfigMap.DefaultMode), v.ConfigMap.Optional)
	case v.Secret != nil:
		err = g.secret(v.Secret.SecretName, v.Secret.Items, modeOf(v.Secret.DefaultMode), v.Secret.Optional)
	case v.DownwardAPI != nil:
		err = g.downward(v.DownwardAPI.Items, modeOf(v.DownwardAPI.DefaultMode))
	default:
		err = g.projected(v.Projected)
	}
	if err != nil {
		return source{}, time.Time{}, err
	}
	if v.Secret != nil || v.Projected != nil {
		// Secrets and tokens are never written to a disk.
		memory, err := m.private(pod)
		if err != nil {
			return source{}, time.Time{}, err
		}
		dir = filepath.Join(memory, v.Name)
	}
	if _, err := write(dir, g.out, fsGroup(pod), m.cfg.Now()); err != nil {
		return source{}, time.Time{}, err
	}
	return source{path: dir, kind: "directory", readOnly: true}, g.refresh, nil
}

// private returns the pod's small tmpfs for what must not reach a disk.
func (m *Manager) private(pod *corev1.Pod) (string, error) {
	dir := filepath.Join(m.PodDir(pod.UID), "private")
	if err := makeDir(dir, 0o750); err != nil {
		return "", err
	}
	if is, err := filetree.IsMountPoint(dir); is || err != nil {
		return dir, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0750"); err != nil {
		return "", fmt.Errorf("mount tmpfs for secrets: %w", err)
	}
	return dir, nil
}

func modeOf(mode *int32) os.FileMode {
	if mode == nil {
		return 0o644
	}
	return os.FileMode(*mode).Perm()
}

// gather collects the files of one volume.
type gather struct {
	m      *Manager
	ctx    context.Context
	pod    *corev1.Pod
	facts  container.Facts
	volume string
	st     *mounted

	out     map[string]file
	refresh time.Time
}

func (g *gather) add(name string, data []byte, mode os.FileMode) error {
	if err := checkPath(name); err != nil {
		return err
	}
	g.out[filepath.Clean(name)] = file{data: data, mode: mode, uid: -1}
	return nil
}

func optional(o *bool) bool { return o != nil && *o }

func (g *gather) configMap(name string, items []corev1.KeyToPath, mode os.FileMode, opt *bool) error {
	obj, err := g.m.cfg.Hub.Get(g.ctx, objects.Ref{Resource: resource.ConfigMaps, Namespace: g.pod.Namespace, Name: name})
	if err != nil {
		if apierrors.IsNotFound(err) && optional(opt) {
			return nil
		}
		return err
	}
	cm := obj.(*corev1.ConfigMap)
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return g.keys("configmap", name, data, items, mode, opt)
}

func (g *gather) secret(name string, items []corev1.KeyToPath, mode os.FileMode, opt *bool) error {
	obj, err := g.m.cfg.Hub.Get(g.ctx, objects.Ref{Resource: resource.Secrets, Namespace: g.pod.Namespace, Name: name})
	if err != nil {
		if apierrors.IsNotFound(err) && optional(opt) {
			return nil
		}
		return err
	}
	return g.keys("secret", name, obj.(*corev1.Secret).Data, items, mode, opt)
}

// keys adds all keys of an object, or the items asked for.
func (g *gather) keys(kind, name string, data map[string][]byte, items []corev1.KeyToPath, mode os.FileMode, opt *bool) error {
	if len(items) == 0 {
		for k, v := range data {
			if err := g.add(k, v, mode); err != nil {
				return err
			}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional(opt) {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s in %s/%s", kind, item.Key, g.pod.Namespace, name)
		}
		m := mode
		if item.Mode != nil {
			m = modeOf(item.Mode)
		}
		if err := g.add(item.Path, v, m); err != nil {
			return err
		}
	}
	return nil
}

func (g *gather) downward(items []corev1.DownwardAPIVolumeFile, mode os.FileMode) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = container.Field(g.pod, g.facts, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = container.ResourceField(g.pod, item.ResourceFieldRef.ContainerName, item.ResourceFieldRef, g.m.cfg.Allocatable())
		}
		if err != nil {
			return err
		}
		m := mode
		if item.Mode != nil {
			m = modeOf(item.Mode)
		}
		if err := g.add(item.Path, []byte(value), m); err != nil {
			return err
		}
	}
	return nil
}

func (g *gather) projected(p *corev1.ProjectedVolumeSource) error {
	mode := modeOf(p.DefaultMode)
	for i := range p.Sources {
		var err error
		switch s := &p.Sources[i]; {
		case s.ConfigMap != nil:
			err = g.configMap(s.ConfigMap.Name, s.ConfigMap.Items, mode, s.ConfigMap.Optional)
		case s.Secret != nil:
			err = g.secret(s.Secret.Name, s.Secret.Items, mode, s.Secret.Optional)
		case s.DownwardAPI != nil:
			err = g.downward(s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			err = g.token(s.ServiceAccountToken, mode)
		default:
			err = fmt.Errorf("projected source %d is of a kind this node does not support", i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refs lists the objects that a pod's volumes show or wait for, each once.
func refs(pod *corev1.Pod) []objects.Ref {
	seen := map[objects.Ref]bool{}
	var out []objects.Ref
	add := func(res resource.Resource, name string) {
		ref := objects.Ref{Resource: res, Namespace: pod.Namespace, Name: name}
		if name != "" && !seen[ref] {
			seen[ref] = true
			out = append(out, ref)
		}
	}
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.ConfigMap != nil:
			add(resource.ConfigMaps, v.ConfigMap.Name)
		case v.Secret != nil:
			add(resource.Secrets, v.Secret.SecretName)
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			add(resource.PersistentVolumeClaims, podclaim.Of(pod, v))
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add(resource.ConfigMaps, s.ConfigMap.Name)
				}
				if s.Secret != nil {
					add(resource.Secrets, s.Secret.Name)
				}
			}
		}
	}
	return out
}
