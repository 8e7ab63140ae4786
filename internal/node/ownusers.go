package node

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/cause"
	"coracle/internal/node/container"
	"coracle/internal/node/cri"
	"coracle/internal/node/users"
)

// takeUsers gives the pod users of its own for its next sandbox: those that it had for an earlier one. A runtime that does
// not know of them is not asked at all, for it could run the pod as the machine's own.
func (w *worker) takeUsers(ctx context.Context, handler string) (*runtimeapi.UserNamespace, error) {
	can, err := w.a.cri.Runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return nil, err
	}
	if !knowsUsers(can, handler) {
		why := can.Info[cause.NoUserNamespaces]
		if why == "" {
			why = fmt.Sprintf("runtime handler %q does not support user namespaces", handler)
		}
		return nil, fmt.Errorf("user namespaces (hostUsers: false): %s", why)
	}
	first, err := w.a.users.Take(w.uid)
	if errors.Is(err, users.ErrNone) {
		err = cri.Failed{Reason: cause.NoUsersLeft, Err: fmt.Errorf("%w: delete pods that have ended, or give the machine more with --%s", err, users.Flag)}
	}
	if err != nil {
		return nil, err
	}
	return container.UsersFrom(first, users.PerPod), nil
}

// knowsUsers says whether a handler of the runtime can give pods users of their own.
func knowsUsers(can *runtimeapi.StatusResponse, handler string) bool {
	for _, h := range can.RuntimeHandlers {
		if h.Name == handler {
			return h.Features.GetUserNamespaces()
		}
	}
	return false
}

// sandboxUsers are the users that a pod's sandbox was made with; nil for the machine's.
func (w *worker) sandboxUsers(ctx context.Context, pod *corev1.Pod, sandbox string) (*runtimeapi.UserNamespace, error) {
	if !container.OwnUsers(pod) {
		return nil, nil
	}
	call, cancel := context.WithTimeout(ctx, cri.CallTime)
	defer cancel()
	r, err := w.a.cri.Runtime.PodSandboxStatus(call, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil {
		return nil, err
	}
	return r.GetStatus().GetLinux().GetNamespaces().GetOptions().GetUsernsOptions(), nil
}
