package openapi

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Types converts objects to typed values for server-side apply and managed fields. The schema is
// made on first use or by Warm, not at construction.
type Types struct {
	scheme *runtime.Scheme
	made   func() (managedfields.TypeConverter, error)
}

// NewTypes returns the converter for the types of scheme.
func NewTypes(scheme *runtime.Scheme) *Types {
	t := &Types{scheme: scheme}
	t.made = sync.OnceValues(t.make)
	return t
}

func (t *Types) make() (managedfields.TypeConverter, error) {
	models, err := load()
	if err != nil {
		return nil, err
	}
	name := namer(t.scheme)
	schemas := make(map[string]*spec.Schema, len(models))
	for key, m := range models {
		s := m.Schema
		if m.V2 != nil {
			s = *m.V2
		}
		if _, extensions := name(key); extensions != nil {
			if s.Extensions == nil {
				s.Extensions = spec.Extensions{}
			}
			s.Extensions[gvkExtension] = extensions[gvkExtension]
		}
		schemas[key] = &s
	}
	converter, err := managedfields.NewTypeConverter(schemas, false)
	if err != nil {
		return nil, fmt.Errorf("openapi: make merge schema: %w", err)
	}
	return converter, nil
}

// Warm makes the schema now, so that the first write need not wait for it.
func (t *Types) Warm() error {
	_, err := t.made()
	return err
}

// ObjectToTyped implements managedfields.TypeConverter.
func (t *Types) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	c, err := t.made()
	if err != nil {
		return nil, err
	}
	return c.ObjectToTyped(obj, opts...)
}

// TypedToObject implements managedfields.TypeConverter.
func (t *Types) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	c, err := t.made()
	if err != nil {
		return nil, err
	}
	return c.TypedToObject(v)
}
