// Package hook runs the lifecycle handlers of containers to their end. When one runs, and what follows from how it ends, is for
// the worker of its pod.
package hook

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/node/container"
	"coracle/internal/node/cri"
	"coracle/internal/node/probe"
	"coracle/internal/pause"
)

// Run runs a lifecycle handler and waits for it
// (https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/).
func Run(
	ctx context.Context, runtime *cri.Client, spec *corev1.Container, h *corev1.LifecycleHandler, id string, facts container.Facts,
) error {
	switch {
	case h.Exec != nil:
		out, code, err := runtime.Exec(ctx, id, h.Exec.Command, 0)
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
