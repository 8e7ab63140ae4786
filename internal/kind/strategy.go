package kind

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"coracle/internal/resource"
	"coracle/internal/scheme"
)

// rules says by value what is peculiar to one kind's writes; a nil func does nothing.
type rules[T object] struct {
	prepareCreate  func(obj T)
	prepareUpdate  func(obj, old T)
	validate       func(obj T) field.ErrorList
	validateUpdate func(obj, old T) field.ErrorList
	// warn is given a nil old on creation.
	warn         func(obj, old T) []string
	canonicalize func(obj T)
	// resets are the field paths, dotted, that writes through this strategy leave untouched.
	resets []string
	// needsVersion refuses updates that name no resourceVersion.
	needsVersion bool
	// createOnUpdate lets a PUT create.
	createOnUpdate bool
	// gc is the default treatment of dependents; empty means they are deleted.
	gc rest.GarbageCollectionPolicy
	// grace makes deletion graceful: it says whether the object lingers, and sets
	// options.GracePeriodSeconds.
	grace func(obj T, options *metav1.DeleteOptions) bool
}

// strategy adapts rules to the generic registry.
type strategy[T object] struct {
	runtime.ObjectTyper
	names.NameGenerator
	namespaced bool
	rules      rules[T]
	resets     map[fieldpath.APIVersion]*fieldpath.Set
}

// gracefulStrategy is a strategy whose objects may linger: the registry looks for the method.
type gracefulStrategy[T object] struct{ strategy[T] }

func newStrategy[T object](res resource.Resource, r rules[T]) Strategy {
	s := strategy[T]{
		ObjectTyper:   scheme.Scheme,
		NameGenerator: names.SimpleNameGenerator,
		namespaced:    res.Namespaced,
		rules:         r,
		resets:        resetFields(res.GVK().GroupVersion(), r.resets),
	}
	if r.grace != nil {
		return &gracefulStrategy[T]{s}
	}
	return &s
}

func resetFields(gv schema.GroupVersion, paths []string) map[fieldpath.APIVersion]*fieldpath.Set {
	if len(paths) == 0 {
		return nil
	}
	set := fieldpath.NewSet()
	for _, p := range paths {
		var parts []any
		for _, part := range strings.Split(p, ".") {
			parts = append(parts, part)
		}
		set.Insert(fieldpath.MakePathOrDie(parts...))
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(gv.String()): set}
}

// maxErrors is how many errors an answer tells of: nobody reads more, and upstream's sum of them (errors.Aggregate) takes
// time and memory with their square.
const maxErrors = 100

// Few returns the first errors and how many there are besides.
func Few(errs field.ErrorList) field.ErrorList {
	if len(errs) <= maxErrors {
		return errs
	}
	more := &field.Error{Type: errs[maxErrors].Type, Field: errs[maxErrors].Field, BadValue: errs[maxErrors].BadValue,
		Detail: fmt.Sprintf("%s (and %d more errors, which are not told)", errs[maxErrors].Detail, len(errs)-maxErrors-1)}
	return append(errs[:maxErrors:maxErrors], more)
}

// NamespaceScoped implements rest.RESTCreateStrategy.
func (s *strategy[T]) NamespaceScoped() bool { return s.namespaced }

// PrepareForCreate implements rest.RESTCreateStrategy.
func (s *strategy[T]) PrepareForCreate(_ context.Context, obj runtime.Object) {
	if s.rules.prepareCreate != nil {
		s.rules.prepareCreate(obj.(T))
	}
}

// Validate implements rest.RESTCreateStrategy.
func (s *strategy[T]) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	o := obj.(T)
	errs := validFinalizers(o.GetFinalizers())
	if s.rules.validate != nil {
		errs = append(s.rules.validate(o), errs...)
	}
	return Few(errs)
}

// WarningsOnCreate implements rest.RESTCreateStrategy.
func (s *strategy[T]) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	if s.rules.warn == nil {
		return nil
	}
	var none T
	return s.rules.warn(obj.(T), none)
}

// Canonicalize implements rest.RESTCreateStrategy and rest.RESTUpdateStrategy.
func (s *strategy[T]) Canonicalize(obj runtime.Object) {
	if s.rules.canonicalize != nil {
		s.rules.canonicalize(obj.(T))
	}
}

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy.
func (s *strategy[T]) AllowCreateOnUpdate(context.Context) bool { return s.rules.createOnUpdate }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s *strategy[T]) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	if s.rules.prepareUpdate != nil {
		s.rules.prepareUpdate(obj.(T), old.(T))
	}
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s *strategy[T]) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	o := obj.(T)
	errs := validFinalizers(o.GetFinalizers())
	if s.rules.validateUpdate != nil {
		errs = append(s.rules.validateUpdate(o, old.(T)), errs...)
	}
	return Few(errs)
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (s *strategy[T]) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	if s.rules.warn == nil {
		return nil
	}
	return s.rules.warn(obj.(T), old.(T))
}

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy.
func (s *strategy[T]) AllowUnconditionalUpdate(context.Context) bool { return !s.rules.needsVersion }

// DefaultGarbageCollectionPolicy implements rest.GarbageCollectionDeleteStrategy.
func (s *strategy[T]) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if s.rules.gc == "" {
		return rest.DeleteDependents
	}
	return s.rules.gc
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (s *strategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return s.resets }

// CheckGracefulDelete implements rest.RESTGracefulDeleteStrategy.
func (s *gracefulStrategy[T]) CheckGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.rules.grace(obj.(T), options)
}
