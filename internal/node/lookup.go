package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/client"
	"coracle/internal/node/cri"
	"coracle/internal/node/objects"
	"coracle/internal/node/podsync"
	"coracle/internal/resource"
)

// recall is what a pod's containers were told from the API before: with it a container that
// crashes is started again though the API is away.
type recall struct {
	mu       sync.Mutex
	objects  map[objects.Ref]client.Object
	services []*corev1.Service
	// handler is that of the pod's RuntimeClass, nil before it was asked for.
	handler *string
}

// lookupTime bounds a read for a container about to start: a server that does not answer must not
// keep it down.
const lookupTime = 5 * time.Second

// away says whether an error is no answer of the API at all.
func away(err error) bool {
	var answered apierrors.APIStatus
	return !errors.As(err, &answered) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err)
}

// services returns those whose addresses a pod's containers are told: its namespace's if it
// wants them, and the API server's always.
func (w *worker) services(ctx context.Context, pod *corev1.Pod) ([]*corev1.Service, error) {
	limited, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	out, err := w.a.services(limited, pod)
	w.recall.mu.Lock()
	defer w.recall.mu.Unlock()
	if err != nil && away(err) && w.recall.services != nil && ctx.Err() == nil {
		return w.recall.services, nil
	}
	if err == nil {
		w.recall.services = append([]*corev1.Service{}, out...)
	}
	return out, err
}

// toldAtLast returns the variables of the last attempt at a container of this definition; nil when there is none, or
// the runtime does not tell.
func (w *worker) toldAtLast(ctx context.Context, spec *corev1.Container) (map[string]string, error) {
	w.mu.Lock()
	attempts := w.world.Attempts(spec.Name)
	w.mu.Unlock()
	if len(attempts) == 0 || attempts[0].Hash != podsync.Hash(spec) {
		return nil, nil
	}
	limited, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	told, err := w.a.cri.Told(limited, attempts[0].ID)
	if cri.IsNotFound(err) {
		return nil, nil
	}
	return told, err
}

func (a *agent) services(ctx context.Context, pod *corev1.Pod) ([]*corev1.Service, error) {
	var out []*corev1.Service
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		items, _, err := a.cfg.Client.List(ctx, resource.Services, client.ListOptions{Namespace: pod.Namespace})
		if err != nil {
			return nil, fmt.Errorf("list services: %w", err)
		}
		for _, obj := range items {
			if svc, ok := obj.(*corev1.Service); ok {
				out = append(out, svc)
			}
		}
		if pod.Namespace == corev1.NamespaceDefault {
			return out, nil
		}
	}
	obj, err := a.cfg.Client.Get(ctx, resource.Services, corev1.NamespaceDefault, "kubernetes")
	if err != nil {
		if apierrors.IsNotFound(err) {
			return out, nil
		}
		return nil, fmt.Errorf("get service kubernetes: %w", err)
	}
	for _, svc := range out {
		if svc.Name == "kubernetes" {
			return out, nil // the namespace has its own of that name
		}
	}
	return append(out, obj.(*corev1.Service)), nil
}

// handler is what the runtime calls the way in which the pod asks to be run, by its RuntimeClass (KEP-585); empty for the
// usual one.
func (w *worker) handler(ctx context.Context, pod *corev1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	limited, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	obj, err := w.a.cfg.Client.Get(limited, resource.RuntimeClasses, "", *pod.Spec.RuntimeClassName)
	w.recall.mu.Lock()
	defer w.recall.mu.Unlock()
	if err != nil {
		if old := w.recall.handler; old != nil && away(err) && ctx.Err() == nil {
			return *old, nil
		}
		return "", fmt.Errorf("get RuntimeClass %q: %w", *pod.Spec.RuntimeClassName, err)
	}
	handler := obj.(*nodev1.RuntimeClass).Handler
	w.recall.handler = &handler
	return handler, nil
}

// lookup reads ConfigMaps and Secrets for a container about to start: fresh, not from a watch
// that may lag behind.
type lookup struct{ w *worker }

func (l lookup) get(ctx context.Context, ref objects.Ref) (client.Object, error) {
	limited, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	obj, err := l.w.a.cfg.Client.Get(limited, ref.Resource, ref.Namespace, ref.Name)
	r := &l.w.recall
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if old := r.objects[ref]; old != nil && away(err) && ctx.Err() == nil {
			return old, nil
		}
		return nil, err
	}
	if r.objects == nil {
		r.objects = map[objects.Ref]client.Object{}
	}
	r.objects[ref] = obj
	return obj, nil
}

// ConfigMap implements container.Lookup.
func (l lookup) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := l.get(ctx, objects.Ref{Resource: resource.ConfigMaps, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret implements container.Lookup.
func (l lookup) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	obj, err := l.get(ctx, objects.Ref{Resource: resource.Secrets, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

// await watches what a container's environment refers to after its start failed for it, so that
// the mending is seen at once. Call it with w.mu held.
func (w *worker) await(name string) {
	spec := specOf(w.pod, name)
	if spec == nil {
		return
	}
	key := podsync.StartContainer{Name: name}.Key()
	for _, ref := range environmentRefs(w.namespace, spec) {
		if w.awaited[ref] != nil {
			continue
		}
		// The first look, too, asks for another try: the object may have come since the last one.
		w.awaited[ref] = w.a.hub.Subscribe(ref, func() { w.tell(func() { w.forgetFailure(key) }) })
	}
}

func (w *worker) stopAwaiting() {
	w.mu.Lock()
	awaited := w.awaited
	w.awaited = map[objects.Ref]func(){}
	w.mu.Unlock()
	for _, stop := range awaited {
		stop()
	}
}

// environmentRefs lists the objects that a container's environment refers to.
func environmentRefs(namespace string, spec *corev1.Container) []objects.Ref {
	var out []objects.Ref
	add := func(res resource.Resource, name string) {
		out = append(out, objects.Ref{Resource: res, Namespace: namespace, Name: name})
	}
	for i := range spec.EnvFrom {
		if ref := spec.EnvFrom[i].ConfigMapRef; ref != nil {
			add(resource.ConfigMaps, ref.Name)
		}
		if ref := spec.EnvFrom[i].SecretRef; ref != nil {
			add(resource.Secrets, ref.Name)
		}
	}
	for i := range spec.Env {
		from := spec.Env[i].ValueFrom
		switch {
		case from == nil:
		case from.ConfigMapKeyRef != nil:
			add(resource.ConfigMaps, from.ConfigMapKeyRef.Name)
		case from.SecretKeyRef != nil:
			add(resource.Secrets, from.SecretKeyRef.Name)
		}
	}
	return out
}
