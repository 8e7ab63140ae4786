package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/container"
	"coracle/internal/node/cri"
	"coracle/internal/node/podsync"
	"coracle/internal/node/status"
	"coracle/internal/node/trust"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// begin starts a step beside the worker. Call it with w.mu held.
func (w *worker) begin(ctx context.Context, step podsync.Step) {
	key := step.Key()
	if c, ok := step.(podsync.Cancel); ok {
		if op := w.busy[c.Op]; op != nil {
			op.cancel()
		}
		return
	}
	if op := w.busy[key]; op != nil {
		if kill, ok := step.(podsync.KillContainer); ok {
			op.hasten(kill.Deadline)
		}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	op := &operation{cancel: cancel}
	if kill, ok := step.(podsync.KillContainer); ok {
		op.deadline = kill.Deadline
		w.calmProbes(kill.ID)
	}
	w.busy[key] = op
	w.a.wg.Go(func() {
		err := w.do(ctx, step, op)
		cancelled := ctx.Err() != nil
		cancel()
		w.tell(func() { w.ended(key, err, cancelled) })
	})
}

// ended notes how a step came out. Call it within tell.
func (w *worker) ended(key string, err error, cancelled bool) {
	delete(w.busy, key)
	w.stale = true
	w.writes++
	switch {
	case err == nil || cancelled:
		delete(w.failures, key)
	default:
		f := podsync.Failure{Reason: cri.Reason(err), Message: cri.Message(err), At: time.Now(), Times: w.failures[key].Times + 1}
		w.failures[key] = f
		if f.Reason == podsync.CreateContainerConfigError {
			w.await(strings.TrimPrefix(key, podsync.StartContainer{}.Key()))
		}
		level := slog.LevelWarn
		if apierrors.IsForbidden(err) { // what a node hears of a pod that was just removed
			level = slog.LevelDebug
		}
		w.a.cfg.Log.Log(context.Background(), level, "a step failed", "pod", w.name, "namespace", w.namespace, "step", key, "err", err)
	}
}

// do carries out one step.
func (w *worker) do(ctx context.Context, step podsync.Step, op *operation) error {
	pod, facts := w.snapshot()
	switch s := step.(type) {
	case podsync.MountVolumes:
		return w.mount(ctx, pod, facts)
	case podsync.RunSandbox:
		return w.runSandbox(ctx, pod, s)
	case podsync.StartContainer:
		return w.startContainer(ctx, pod, facts, s)
	case podsync.KillContainer:
		return w.kill(ctx, pod, facts, s, op)
	case podsync.StopSandbox:
		w.release(ctx, pod)
		ctx, cancel := context.WithTimeout(ctx, cri.CallTime)
		defer cancel()
		_, err := w.a.cri.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.ID})
		return ignoreNotFound(err)
	case podsync.RemoveContainer:
		ctx, cancel := context.WithTimeout(ctx, cri.CallTime)
		defer cancel()
		log, known := w.logOf(s.ID)
		_, err := w.a.cri.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: s.ID})
		if err = ignoreNotFound(err); err != nil || !known {
			return err
		}
		return w.a.cfg.podLogs().Forget(log)
	case podsync.RemoveSandbox:
		ctx, cancel := context.WithTimeout(ctx, cri.CallTime)
		defer cancel()
		_, err := w.a.cri.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.ID})
		return ignoreNotFound(err)
	case podsync.ReleaseVolumes:
		if err := w.a.volumes.Release(w.uid); err != nil {
			return err
		}
		w.tell(func() { w.released, w.mounted, w.refresh = true, false, time.Time{} })
		return nil
	case podsync.DeleteObject:
		return w.deleteObject(ctx, pod)
	}
	return fmt.Errorf("unknown step %T", step)
}

func ignoreNotFound(err error) error {
	if cri.IsNotFound(err) {
		return nil
	}
	return err
}

// mount makes the volumes ready and, later, keeps them so.
func (w *worker) mount(ctx context.Context, pod *corev1.Pod, facts container.Facts) error {
	refresh, err := w.a.volumes.Mount(ctx, pod, facts)
	if err != nil {
		if ctx.Err() == nil {
			w.a.events.Pod(pod, "", corev1.EventTypeWarning, "FailedMount", err.Error())
		}
		return err
	}
	w.tell(func() {
		w.mounted, w.refresh = true, refresh
		w.mounts++
	})
	return nil
}

// refreshVolumes brings mounted volumes up to date when what they show has changed or a token is
// due. Call it with w.mu held.
func (w *worker) refreshVolumes(ctx context.Context, now time.Time) {
	due := w.remount || (!w.refresh.IsZero() && !now.Before(w.refresh))
	if !w.mounted || !due || !w.ending.IsZero() || w.gone {
		return
	}
	if w.busy[podsync.MountVolumes{}.Key()] != nil {
		return
	}
	if f, failed := w.failures[podsync.MountVolumes{}.Key()]; failed && now.Before(f.At.Add(podsync.RetryDelay(f))) {
		w.refresh = f.At.Add(podsync.RetryDelay(f))
		return
	}
	w.remount, w.refresh = false, time.Time{}
	w.begin(ctx, podsync.MountVolumes{})
}

// downwardChanged says whether files that show the pod itself have changed.
func downwardChanged(before, after *corev1.Pod) bool {
	if sameMap(before.Labels, after.Labels) && sameMap(before.Annotations, after.Annotations) {
		return false
	}
	for i := range after.Spec.Volumes {
		if v := &after.Spec.Volumes[i]; v.DownwardAPI != nil || v.Projected != nil {
			return true
		}
	}
	return false
}

func sameMap(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if other, ok := b[k]; !ok || other != v {
			return false
		}
	}
	return true
}

func (w *worker) runSandbox(ctx context.Context, pod *corev1.Pod, s podsync.RunSandbox) error {
	ctx, cancel := context.WithTimeout(ctx, cri.CallTime)
	defer cancel()
	if fault := container.HostnameFault(pod, w.a.cfg.ClusterDomain); fault != "" {
		w.a.events.Pod(pod, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+fault)
		return errors.New(fault)
	}
	resolv, complaints := w.a.resolving.DNS().Config(pod)
	for _, c := range complaints {
		w.a.events.Pod(pod, "", corev1.EventTypeWarning, c.Reason, c.Message)
	}
	options := w.sandboxOptions(pod, resolv)
	options.Attempt = s.Attempt
	handler, err := w.handler(ctx, pod)
	if err == nil && container.OwnUsers(pod) {
		options.Users, err = w.takeUsers(ctx, handler)
	}
	if err == nil {
		cfg := container.Sandbox(pod, options)
		_, err = w.a.cri.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler})
	}
	if err != nil {
		if ctx.Err() == nil && !cri.IsUnavailable(err) {
			w.a.events.Pod(pod, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+cri.Message(err))
		}
		return fmt.Errorf("run sandbox: %w", err)
	}
	return nil
}

func (w *worker) sandboxOptions(pod *corev1.Pod, resolv *runtimeapi.DNSConfig) container.SandboxOptions {
	return container.SandboxOptions{
		LogRoot: w.a.cfg.logRoot(), CgroupRoot: w.a.cfg.CgroupRoot, Domain: w.a.cfg.ClusterDomain, Resolv: resolv,
		QOS: status.QOS(pod), SeccompStore: w.a.cfg.seccompDir(),
	}
}

// deleteObject deletes the API object of a pod that has stopped, on condition that it is still that pod.
func (w *worker) deleteObject(ctx context.Context, pod *corev1.Pod) error {
	if _, err := w.a.trust.Await(ctx, trust.Serving); err != nil {
		return err
	}
	now := int64(0)
	ref := object.Ref{Resource: resource.Pods, Key: object.KeyOf(pod), UID: pod.UID}
	left, err := w.a.cfg.Client.Delete(ctx, ref, metav1.DeleteOptions{GracePeriodSeconds: &now})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		w.tell(func() { w.gone = true })
		return nil
	case err != nil:
		return err
	}
	w.tell(func() {
		after, ok := left.(*corev1.Pod)
		if ok {
			w.adopt(after)
		}
		w.gone = w.gone || !ok || len(after.Finalizers) == 0
	})
	return nil
}
