package rehearse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	autoscalingv1 "k8s.io/api/autoscaling/v1"

	"coracle/internal/client"
	"coracle/internal/kind"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// Verb is what is done to an object.
type Verb string

// The verbs.
const (
	Apply   Verb = "apply"
	Scale   Verb = "scale"
	Restart Verb = "restart"
	Delete  Verb = "delete"
	Cordon  Verb = "cordon"
	Drain   Verb = "drain"
	Fail    Verb = "fail"
)

// Change is one thing to rehearse.
type Change struct {
	Verb Verb
	// Ref is the object; a node for Cordon, Drain and Fail.
	Ref object.Ref
	// Object, for Apply, is the object as the API would store it.
	Object object.Object
	// Replicas is for Scale.
	Replicas int32
}

const restartedAt = "kubectl.kubernetes.io/restartedAt"

// check finds what cannot be done before anything is begun. Errors are the API's.
func (ch Change) check(has func(object.Ref) (object.Object, bool)) error {
	if ch.Verb == Apply {
		return nil
	}
	if _, ok := has(ch.Ref); !ok {
		return apierrors.NewNotFound(ch.Ref.Resource.GroupResource(), ch.Ref.Name)
	}
	k, _ := kind.For(ch.Ref.Resource)
	switch {
	case ch.Verb == Scale && k.Scale == nil:
		return fmt.Errorf("--scale %s: %s have no replicas to set: name a Deployment, StatefulSet, ReplicaSet or ReplicationController", shortName(ch.Ref), k.Plural)
	case ch.Verb == Restart && !slices.Contains(restartable, ch.Ref.Resource):
		return fmt.Errorf("--restart %s: name a Deployment, StatefulSet or DaemonSet", shortName(ch.Ref))
	}
	return nil
}

var restartable = []resource.Resource{resource.Deployments, resource.StatefulSets, resource.DaemonSets}

// do does it through the API of the virtual cluster.
func (ch Change) do(ctx context.Context, api client.Interface, now time.Time) error {
	switch ch.Verb {
	case Apply:
		return ch.apply(ctx, api)
	case Delete:
		background := metav1.DeletePropagationBackground
		_, err := api.Delete(ctx, ch.Ref, metav1.DeleteOptions{PropagationPolicy: &background})
		return err
	case Scale:
		return ch.edit(ctx, api, func(o object.Object) {
			k, _ := kind.For(ch.Ref.Resource)
			k.Scale.Set(o, &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: ch.Replicas}})
		})
	case Restart:
		return ch.edit(ctx, api, func(o object.Object) {
			t := template(o)
			if t.Annotations == nil {
				t.Annotations = map[string]string{}
			}
			t.Annotations[restartedAt] = now.UTC().Format(time.RFC3339)
		})
	case Cordon, Drain:
		return ch.edit(ctx, api, func(o object.Object) {
			if node, ok := o.(*corev1.Node); ok {
				node.Spec.Unschedulable = true
			}
		})
	}
	return nil
}

func (ch Change) apply(ctx context.Context, api client.Interface) error {
	o := ch.Object.DeepCopyObject().(object.Object)
	live, err := api.Get(ctx, ch.Ref.Resource, ch.Ref.Namespace, ch.Ref.Name)
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, o)
		return err
	}
	if err != nil {
		return err
	}
	if alike(live, o) {
		return nil
	}
	o.SetUID(live.GetUID())
	o.SetResourceVersion("")
	_, err = api.Update(ctx, o, "")
	return err
}

// alike says whether an apply changes nothing but who manages the fields.
func alike(live, next object.Object) bool {
	a, b := live.DeepCopyObject().(object.Object), next.DeepCopyObject().(object.Object)
	for _, o := range []object.Object{a, b} {
		o.SetManagedFields(nil)
		o.SetResourceVersion("")
		o.SetUID("")
		o.SetGeneration(0)
		o.SetCreationTimestamp(metav1.Time{})
	}
	return sameButStatus(a, b)
}

func (ch Change) edit(ctx context.Context, api client.Interface, change func(object.Object)) error {
	o, err := api.Get(ctx, ch.Ref.Resource, ch.Ref.Namespace, ch.Ref.Name)
	if err != nil {
		return err
	}
	next := o.DeepCopyObject().(object.Object)
	change(next)
	_, err = api.Update(ctx, next, "")
	return err
}

func template(o object.Object) *corev1.PodTemplateSpec {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	}
	return &corev1.PodTemplateSpec{}
}

// shortName prints "deployment/web".
func shortName(ref object.Ref) string { return strings.ToLower(ref.Resource.Kind) + "/" + ref.Name }
