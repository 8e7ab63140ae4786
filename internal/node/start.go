package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/filetree"
	"coracle/internal/node/container"
	"coracle/internal/node/cri"
	"coracle/internal/node/hook"
	"coracle/internal/node/podsync"
	"coracle/internal/node/pull"
	"coracle/internal/node/status"
)

// startContainer brings one container from its image to running, its postStart hook included.
func (w *worker) startContainer(ctx context.Context, pod *corev1.Pod, facts container.Facts, s podsync.StartContainer) error {
	spec, err := container.Spec(pod, s.Name)
	if err != nil {
		return err
	}
	image, err := w.a.puller.Image(ctx, pod, spec)
	if err != nil {
		return err
	}
	if err := w.a.puller.VolumeImages(ctx, pod, spec); err != nil {
		return err
	}
	cfg, err := w.containerConfig(ctx, pod, spec, facts, s, image)
	if err != nil {
		return w.startFailed(ctx, pod, spec, podsync.CreateContainerConfigError, err)
	}
	if err := w.isolate(ctx, pod, s.Sandbox); err != nil {
		return w.startFailed(ctx, pod, spec, notIsolated, err)
	}
	resolv, _ := w.a.resolving.DNS().Config(pod) // what is wrong with it was said of the sandbox
	call, cancel := context.WithTimeout(ctx, cri.CallTime)
	defer cancel()
	options := w.sandboxOptions(pod, resolv)
	options.Users = cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions
	made, err := w.a.cri.Runtime.CreateContainer(call, &runtimeapi.CreateContainerRequest{
		PodSandboxId: s.Sandbox, Config: cfg, SandboxConfig: container.Sandbox(pod, options),
	})
	if err != nil {
		return w.startFailed(ctx, pod, spec, cmp.Or(cri.Cause(err), podsync.CreateContainerError), err)
	}
	if err := w.a.cfg.podLogs().Link(w.log(s.Name, s.Attempt, made.ContainerId)); err != nil {
		w.a.cfg.Log.Warn("show a log", "pod", w.name, "namespace", w.namespace, "err", err) // the container is the better for it
	}
	w.a.events.Pod(pod, spec.Name, corev1.EventTypeNormal, "Created", "Container created")
	if _, err := w.a.cri.Runtime.StartContainer(call, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return w.startFailed(ctx, pod, spec, podsync.RunContainerError, err)
	}
	w.a.events.Pod(pod, spec.Name, corev1.EventTypeNormal, "Started", "Container started")
	w.tell(func() { w.stale = true })
	return w.postStart(ctx, pod, spec, made.ContainerId, facts)
}

func (w *worker) startFailed(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, reason string, err error) error {
	if ctx.Err() == nil && !cri.IsUnavailable(err) {
		w.a.events.Pod(pod, spec.Name, corev1.EventTypeWarning, "Failed", "Error: "+cri.Message(err))
	}
	return cri.Failed{Reason: reason, Err: err}
}

// postStart runs the hook; a container whose hook fails is killed, and its restart policy decides.
func (w *worker) postStart(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, id string, facts container.Facts) error {
	if spec.Lifecycle == nil || spec.Lifecycle.PostStart == nil {
		return nil
	}
	err := hook.Run(ctx, w.a.cri, spec, spec.Lifecycle.PostStart, id, facts)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	w.a.events.Pod(pod, spec.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	w.a.events.Pod(pod, spec.Name, corev1.EventTypeNormal, "Killing", "FailedPostStartHook")
	w.a.cfg.Log.Info("postStart hook failed", "pod", pod.Name, "namespace", pod.Namespace, "container", spec.Name, "err", err)
	grace := 30 * time.Second
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	return w.stopContainer(ctx, id, grace)
}

func (w *worker) containerConfig(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, facts container.Facts, s podsync.StartContainer, image pull.Image) (*runtimeapi.ContainerConfig, error) {
	if err := container.Lacks(pod, spec); err != nil {
		return nil, err
	}
	env, err := w.environment(ctx, pod, spec, facts)
	if err != nil {
		return nil, err
	}
	expand := func(text string) (string, error) { return w.expand(ctx, env, pod, spec, text) }
	mounts, err := w.a.volumes.Mounts(pod, spec, expand)
	if err != nil {
		return nil, err
	}
	for i := range spec.VolumeMounts { // beyond them are those that come with others
		if r := spec.VolumeMounts[i].RecursiveReadOnly; r != nil && *r == corev1.RecursiveReadOnlyIfPossible {
			mounts[i].Recursive = mounts[i].Recursive && w.a.host.RecursiveReadOnly
		}
	}
	own, err := w.ownFiles(pod, spec, facts, s.Attempt)
	if err != nil {
		return nil, err
	}
	users, err := w.sandboxUsers(ctx, pod, s.Sandbox)
	if err != nil {
		return nil, err
	}
	return container.Container(ctx, pod, spec, container.Options{
		Step: s, Environment: env, ImageUser: image.User, ImageRef: image.Ref, Mounts: append(mounts, own...),
		QOS: status.QOS(pod), Memory: w.a.machine.Memory(), SeccompStore: w.a.cfg.seccompDir(), Users: users,
	})
}

// environment is where a container's variables come from. While no server's word counts, that is what the last attempt
// at the same container was told, if the runtime still knows it.
func (w *worker) environment(
	ctx context.Context, pod *corev1.Pod, spec *corev1.Container, facts container.Facts,
) (*container.Environment, error) {
	env := &container.Environment{
		Lookup: lookup{w}, Pod: facts, Allocatable: w.a.machine.Allocatable,
		File: func(name, path string) ([]byte, error) { return w.a.volumes.EnvFile(pod, name, path) },
	}
	if !w.a.trust.Serves() {
		told, err := w.toldAtLast(ctx, spec)
		if err != nil {
			return nil, err
		}
		if env.Told = told; told != nil {
			return env, nil
		}
	}
	var err error
	env.Services, err = w.services(ctx, pod)
	return env, err
}

// expand resolves a subPathExpr; unlike in commands, a variable that is not there is an error.
func (w *worker) expand(ctx context.Context, env *container.Environment, pod *corev1.Pod, spec *corev1.Container, text string) (string, error) {
	vars, err := env.Env(ctx, pod, spec)
	if err != nil {
		return "", err
	}
	missing := ""
	out := container.Expand(text, func(name string) (string, bool) {
		for _, kv := range vars {
			if kv.Key == name {
				return string(kv.Value), true
			}
		}
		missing = name
		return "", false
	})
	if missing != "" {
		return "", fmt.Errorf("failed to expand subPathExpr %q: variable %s is not set", text, missing)
	}
	return out, nil
}

// ownFiles makes the files that the agent itself gives a container: /etc/hosts and the one its
// termination message is read from. A container can write them, but not reach their directory.
func (w *worker) ownFiles(pod *corev1.Pod, spec *corev1.Container, facts container.Facts, attempt uint32) ([]container.Mount, error) {
	var out []container.Mount
	if !mountsAt(spec, "/etc/hosts") {
		content := container.Hosts(pod, w.a.cfg.ClusterDomain, facts.PodIPs)
		if pod.Spec.HostNetwork {
			node, err := os.ReadFile("/etc/hosts")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			content = container.HostNetworkHosts(pod, node)
		}
		path := filepath.Join(w.a.volumes.PodDir(pod.UID), "etc-hosts")
		// In place: running containers of the pod have this very file mounted.
		if err := ownFile(path, content, 0o644); err != nil {
			return nil, err
		}
		out = append(out, container.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	if spec.TerminationMessagePath != "" && !mountsAt(spec, spec.TerminationMessagePath) {
		path := w.messageFile(spec.Name, attempt)
		// Any user of the container may write it.
		if err := ownFile(path, nil, 0o666); err != nil {
			return nil, err
		}
		out = append(out, container.Mount{ContainerPath: spec.TerminationMessagePath, HostPath: path})
	}
	return out, nil
}

// ownFile writes a file of the agent's, with exactly this mode.
func ownFile(path string, content []byte, mode uint32) error {
	dir, err := filetree.MakeDir(filepath.Dir(path), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Overwrite(filepath.Base(path), content, mode)
}

func mountsAt(spec *corev1.Container, path string) bool {
	for _, m := range spec.VolumeMounts {
		if filepath.Clean(m.MountPath) == path {
			return true
		}
	}
	return false
}
