package tunnel

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// LogTail reads the end of a container's log, as far as the user of ctx may: what a get of pods/log would answer, or the
// API's refusal. It reads bytes at most.
func (t *Tunnels) LogTail(ctx context.Context, pod object.Key, container string, previous bool, lines, bytes int64) ([]byte, error) {
	who, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewUnauthorized("Unauthorized")
	}
	decision, reason, err := t.authz.Authorize(ctx, authorizer.AttributesRecord{
		User: who, Verb: "get", Namespace: pod.Namespace, Name: pod.Name,
		APIVersion: "v1", Resource: resource.Pods.Plural, Subresource: "log", ResourceRequest: true,
	})
	if decision != authorizer.DecisionAllow {
		if err == nil {
			err = fmt.Errorf("user %q cannot get pods/log in the namespace %q %s", who.GetName(), pod.Namespace, reason)
		}
		return nil, apierrors.NewForbidden(resource.Pods.GroupResource(), pod.Name, err)
	}
	got, err := (&podLog{t}).Get(request.WithNamespace(ctx, pod.Namespace), pod.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: &lines, LimitBytes: &bytes,
	})
	if err != nil {
		return nil, err
	}
	stream, ok := got.(*genericrest.LocationStreamer)
	if !ok || stream.Location == nil {
		return nil, nil
	}
	in, _, _, err := stream.InputStream(ctx, "v1", "text/plain")
	if err != nil || in == nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(io.LimitReader(in, bytes))
}
