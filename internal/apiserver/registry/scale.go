package registry

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"coracle/internal/kind"
)

// scale serves KIND/scale as autoscaling/v1.
type scale struct {
	store *genericregistry.Store
	kind  kind.Kind
	// about is the scale, whole the object behind it.
	about, whole subject
	paths        managedfields.ResourcePathMappings
}

func newScale(o *Registry) *scale {
	path := make([]any, len(o.Kind.Scale.ReplicasPath))
	for i, p := range o.Kind.Scale.ReplicasPath {
		path[i] = p
	}
	return &scale{
		store: o.Store,
		kind:  o.Kind,
		about: subject{autoscalingv1.SchemeGroupVersion.WithKind("Scale"), func() runtime.Object { return &autoscalingv1.Scale{} }, o.about.types},
		whole: o.about,
		paths: managedfields.ResourcePathMappings{
			o.Kind.GVK().GroupVersion().String(): fieldpath.MakePathOrDie(path...),
		},
	}
}

// GroupVersionKind implements rest.GroupVersionKindProvider: a scale is of autoscaling/v1
// whatever the group it hangs in.
func (s *scale) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

// New implements rest.Storage.
func (s *scale) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy implements rest.Storage.
func (s *scale) Destroy() {}

// Get implements rest.Getter.
func (s *scale) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return s.of(obj)
}

func (s *scale) of(obj runtime.Object) (*autoscalingv1.Scale, error) {
	out, err := s.kind.Scale.Get(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%v", err))
	}
	return out, nil
}

// Update implements rest.Updater.
func (s *scale) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := s.store.Update(ctx, name, careful{&scaleUpdate{s, name, careful{info, &s.about}}, &s.whole},
		s.validateCreate(create), s.validateUpdate(update), false, options)
	if err != nil {
		return nil, false, err
	}
	out, err := s.of(obj)
	return out, false, err
}

// ConvertToTable implements rest.TableConvertor.
func (s *scale) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(schema.GroupResource{Group: "autoscaling", Resource: "scales"}).ConvertToTable(ctx, obj, options)
}

// Admission sees the scale, not the object behind it.
func (s *scale) validateCreate(f rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		if f == nil {
			return nil
		}
		sc, err := s.of(obj)
		if err != nil {
			return err
		}
		return f(ctx, sc)
	}
}

func (s *scale) validateUpdate(f rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		if f == nil {
			return nil
		}
		sc, err := s.of(obj)
		if err != nil {
			return err
		}
		oldScale, err := s.of(old)
		if err != nil {
			return err
		}
		return f(ctx, sc, oldScale)
	}
}

// scaleUpdate turns an update of a scale into one of the object.
type scaleUpdate struct {
	scale *scale
	name  string
	info  rest.UpdatedObjectInfo
}

// Preconditions implements rest.UpdatedObjectInfo.
func (u *scaleUpdate) Preconditions() *metav1.Preconditions { return u.info.Preconditions() }

// UpdatedObject implements rest.UpdatedObjectInfo.
func (u *scaleUpdate) UpdatedObject(ctx context.Context, existing runtime.Object) (runtime.Object, error) {
	k := u.scale.kind
	obj := existing.DeepCopyObject()
	accessor, err := metaOf(obj)
	if err != nil {
		return nil, err
	}
	manager := managedfields.NewScaleHandler(accessor.GetManagedFields(), k.GVK().GroupVersion(), u.scale.paths)
	entries, err := manager.ToSubresource()
	if err != nil {
		return nil, err
	}
	old, err := u.scale.of(existing)
	if err != nil {
		return nil, err
	}
	old.ManagedFields = entries
	updated, err := u.info.UpdatedObject(ctx, old)
	if err != nil {
		return nil, err
	}
	next, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", updated))
	}
	if errs := k.Scale.Validate(next); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), next.Name, errs)
	}
	if len(next.ResourceVersion) != 0 {
		accessor.SetResourceVersion(next.ResourceVersion)
	}
	if next.UID != "" && next.UID != accessor.GetUID() {
		return nil, apierrors.NewConflict(k.GroupResource(), u.name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", next.UID, accessor.GetUID()))
	}
	k.Scale.Set(obj, next)
	if entries, err = manager.ToParent(next.ManagedFields); err != nil {
		return nil, err
	}
	accessor.SetManagedFields(entries)
	return obj, nil
}

func metaOf(obj runtime.Object) (metav1.Object, error) {
	m, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%T carries no metadata", obj)
	}
	return m, nil
}
