package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"coracle/internal/resource"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerrors "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
)

// binding serves pods/binding: the scheduler's answer to where a pod runs.
type binding struct{ pods *Registry }

var _ rest.NamedCreater = (*binding)(nil)

// New implements rest.Storage.
func (b *binding) New() runtime.Object { return &corev1.Binding{} }

// Destroy implements rest.Storage.
func (b *binding) Destroy() {}

// Create implements rest.NamedCreater. Like upstream it writes past the pod's strategy and
// managed fields: nothing but the node, the metadata given and one condition can change.
func (b *binding) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	bind, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %#v", obj))
	}
	if name != bind.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(bind); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), name, errs)
	}
	if validate != nil {
		if err := validate(ctx, bind.DeepCopy()); err != nil {
			return nil, err
		}
	}
	if err := b.assign(ctx, bind, dryrun.IsDryRun(options.DryRun)); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func validateBinding(bind *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	target := field.NewPath("target")
	if bind.Target.Kind != "" && bind.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(target.Child("kind"), bind.Target.Kind, []string{"Node", "<empty>"}))
	}
	if bind.Target.Name == "" {
		errs = append(errs, field.Required(target.Child("name"), ""))
	}
	return errs
}

func (b *binding) assign(ctx context.Context, bind *corev1.Binding, dryRun bool) error {
	key, err := b.pods.KeyFunc(ctx, bind.Name)
	if err != nil {
		return err
	}
	preconditions := &storage.Preconditions{}
	if bind.UID != "" {
		preconditions.UID = &bind.UID
	}
	if bind.ResourceVersion != "" {
		preconditions.ResourceVersion = &bind.ResourceVersion
	}
	err = b.pods.Storage.GuaranteedUpdate(ctx, key, b.pods.Kind.New(), false, preconditions,
		storage.SimpleUpdate(func(live runtime.Object) (runtime.Object, error) {
			pod, ok := live.(*corev1.Pod)
			if !ok {
				return nil, fmt.Errorf("unexpected object: %#v", live)
			}
			return pod, bindPod(pod, bind, metav1.Now())
		}), dryRun, nil)
	if err == nil {
		return nil
	}
	pods := b.pods.Kind.GroupResource()
	err = storeerrors.InterpretGetError(err, pods, bind.Name)
	err = storeerrors.InterpretUpdateError(err, pods, bind.Name)
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		err = apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, bind.Name, err)
	}
	return err
}

// bindPod puts a pod on its node, in place.
func bindPod(pod *corev1.Pod, bind *corev1.Binding, now metav1.Time) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) != 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = bind.Target.Name
	for k, v := range bind.Annotations {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[k] = v
	}
	for k, v := range bind.Labels {
		if pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		pod.Labels[k] = v
	}
	setPodCondition(&pod.Status, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation,
	}, now)
	return nil
}

// setPodCondition adds or replaces a condition; its transition time moves with its status only.
func setPodCondition(status *corev1.PodStatus, c corev1.PodCondition, now metav1.Time) {
	c.LastTransitionTime = now
	i := slices.IndexFunc(status.Conditions, func(x corev1.PodCondition) bool { return x.Type == c.Type })
	if i < 0 {
		status.Conditions = append(status.Conditions, c)
		return
	}
	old := status.Conditions[i]
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	c.LastProbeTime = old.LastProbeTime
	status.Conditions[i] = c
}

// Bindings is the older resource of the same meaning; nil where there are no pods.
func (s *Set) Bindings() rest.Storage {
	pods, ok := s.All[resource.Pods]
	if !ok {
		return nil
	}
	return bindings{&binding{pods}}
}

// bindings serves the older resource of the same meaning, whose name is in the body.
type bindings struct{ *binding }

// NamespaceScoped implements rest.Scoper.
func (bindings) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (bindings) GetSingularName() string { return "binding" }

// Create implements rest.Creater.
func (b bindings) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	m, err := metaOf(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return b.binding.Create(ctx, m.GetName(), obj, validate, options)
}
