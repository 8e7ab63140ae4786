package openapi

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"coracle/internal/apiserver/openapi/mergeschema"
)

// Types converts objects to typed values for server-side apply and managed fields.
type Types struct {
	// models tells which model of the merge schema describes which kind.
	models func() (map[schema.GroupVersionKind]string, error)
}

var _ managedfields.TypeConverter = (*Types)(nil)

// NewTypes returns the converter for the types of scheme.
func NewTypes(scheme *runtime.Scheme) *Types {
	return &Types{models: sync.OnceValues(func() (map[schema.GroupVersionKind]string, error) { return modelsOf(scheme) })}
}

// modelsOf finds the model of each kind of a scheme that has one.
func modelsOf(scheme *runtime.Scheme) (map[schema.GroupVersionKind]string, error) {
	models := map[schema.GroupVersionKind]string{}
	for gvk := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		name, err := scheme.ToOpenAPIDefinitionName(gvk)
		if err != nil {
			return nil, fmt.Errorf("openapi: name of %s: %w", gvk, err)
		}
		if _, ok := mergeschema.Parser().Schema.FindNamedType(name); ok {
			models[gvk] = name
		}
	}
	return models, nil
}

// Schema returns the merge schema of all types and the name in it of a kind's own.
func (t *Types) Schema(gvk schema.GroupVersionKind) (*smdschema.Schema, string, error) {
	models, err := t.models()
	if err != nil {
		return nil, "", err
	}
	name, ok := models[gvk]
	if !ok {
		return nil, "", fmt.Errorf("openapi: no model of %s", gvk)
	}
	return &mergeschema.Parser().Schema, name, nil
}

// ObjectToTyped implements managedfields.TypeConverter.
func (t *Types) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	models, err := t.models()
	if err != nil {
		return nil, err
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	name, ok := models[gvk]
	if !ok {
		return nil, fmt.Errorf("no corresponding type for %v", gvk)
	}
	model := mergeschema.Parser().Type(name)
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return model.FromUnstructured(u.UnstructuredContent(), opts...)
	}
	return model.FromStructured(obj, opts...)
}

// TypedToObject implements managedfields.TypeConverter.
func (t *Types) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	content, ok := v.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("failed to convert value to unstructured for type %T", v.AsValue().Unstructured())
	}
	return &unstructured.Unstructured{Object: content}, nil
}
