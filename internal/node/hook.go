package node

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/container"
	"coracle/internal/node/pause"
	"coracle/internal/node/probe"
)

// runHook runs a lifecycle handler and waits for it
// (https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/).
func (w *worker) runHook(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, h *corev1.LifecycleHandler, id string, facts container.Facts) error {
	switch {
	case h.Exec != nil:
		out, code, err := w.exec(ctx, id, h.Exec.Command, 0)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("exited with %d: %s", code, out)
		}
		return nil
	case h.HTTPGet != nil:
		ip := ""
		if len(facts.PodIPs) > 0 {
			ip = facts.PodIPs[0]
		}
		_, _, err := probe.Get(ctx, h.HTTPGet, ip, spec.Ports, "kube-lifecycle/1.37")
		return err
	case h.TCPSocket != nil:
		port, err := probe.Port(h.TCPSocket.Port, spec.Ports)
		if err != nil || len(facts.PodIPs) == 0 {
			return fmt.Errorf("no address to connect to: %w", err)
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(facts.PodIPs[0], strconv.Itoa(port)))
		if err != nil {
			return err
		}
		return conn.Close()
	case h.Sleep != nil:
		if !pause.For(ctx, time.Duration(h.Sleep.Seconds)*time.Second) {
			return ctx.Err()
		}
	}
	return nil
}

// exec runs a command in a container to its end. A zero timeout leaves it to ctx.
func (w *worker) exec(ctx context.Context, id string, command []string, timeout time.Duration) (output string, code int32, err error) {
	whole := int64((timeout + time.Second - 1) / time.Second)
	res, err := w.a.cri.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: whole})
	if err != nil {
		return "", 0, err
	}
	return string(res.Stdout) + string(res.Stderr), res.ExitCode, nil
}
