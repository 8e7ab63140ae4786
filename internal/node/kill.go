package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/container"
	"coracle/internal/node/cri"
	"coracle/internal/node/hook"
	"coracle/internal/node/podsync"
)

// hasten gives a kill under way less time.
func (op *operation) hasten(deadline time.Time) {
	op.mu.Lock()
	defer op.mu.Unlock()
	if !deadline.Before(op.deadline) {
		return
	}
	op.deadline = deadline
	if op.hurry != nil {
		op.hurry()
	}
}

// phase returns a context that ends when the kill is hastened, and the deadline it has until then.
func (op *operation) phase(ctx context.Context) (context.Context, context.CancelFunc, time.Time) {
	op.mu.Lock()
	defer op.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	op.hurry = cancel
	return ctx, cancel, op.deadline
}

// afterHook is what a container gets to stop in when its preStop hook has used the grace period up.
const afterHook = 2 * time.Second

// kill runs the preStop hook within the grace period and stops the container in what is left of it.
func (w *worker) kill(ctx context.Context, pod *corev1.Pod, facts container.Facts, s podsync.KillContainer, op *operation) error {
	if s.Message != "" {
		w.a.events.Pod(pod, s.Name, corev1.EventTypeNormal, "Killing", s.Message)
	}
	hooked := false
	if spec, err := container.Spec(pod, s.Name); err == nil && s.PreStop && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
		phase, cancel, deadline := op.phase(ctx)
		limited, stop := context.WithDeadline(phase, deadline)
		if time.Now().Before(deadline) {
			hooked = true
			if err := hook.Run(limited, w.a.cri, spec, spec.Lifecycle.PreStop, s.ID, facts); err != nil && ctx.Err() == nil {
				w.a.events.Pod(pod, s.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
				w.a.cfg.Log.Info("preStop hook failed", "pod", pod.Name, "namespace", pod.Namespace, "container", s.Name, "err", err)
			}
		}
		stop()
		cancel()
	}
	for {
		phase, cancel, deadline := op.phase(ctx)
		left := time.Until(deadline)
		if hooked {
			left = max(left, afterHook)
		}
		err := w.stopContainer(phase, s.ID, left)
		hurried := phase.Err() != nil && ctx.Err() == nil
		cancel()
		if !hurried {
			return err
		}
		hooked = false
	}
}

// stopContainer signals and, after grace, kills. The runtime counts whole seconds.
func (w *worker) stopContainer(ctx context.Context, id string, grace time.Duration) error {
	whole := max(int64((grace+time.Second-1)/time.Second), 0)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(whole)*time.Second+cri.CallTime)
	defer cancel()
	_, err := w.a.cri.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: whole})
	if err := ignoreNotFound(err); err != nil {
		return fmt.Errorf("stop container: %w", err)
	}
	return nil
}
