package openapi

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Types converts objects to typed values for server-side apply and managed fields. The schema is
// made on first use or by Warm, not at construction.
type Types struct {
	scheme *runtime.Scheme
	made   func() (*mergeSchema, error)
}

// mergeSchema is the merge schema of every type, and which model describes which kind.
type mergeSchema struct {
	parser typed.Parser
	models map[schema.GroupVersionKind]string
}

var _ managedfields.TypeConverter = (*Types)(nil)

// NewTypes returns the converter for the types of scheme.
func NewTypes(scheme *runtime.Scheme) *Types {
	t := &Types{scheme: scheme}
	t.made = sync.OnceValues(t.make)
	return t
}

func (t *Types) make() (*mergeSchema, error) {
	models, err := load()
	if err != nil {
		return nil, err
	}
	schemas := make(map[string]*spec.Schema, len(models))
	for name, m := range models {
		s := m.Schema
		if m.V2 != nil {
			s = *m.V2
		}
		schemas[name] = &s
	}
	converted, err := schemaconv.ToSchemaFromOpenAPI(schemas, false)
	if err != nil {
		return nil, fmt.Errorf("openapi: make merge schema: %w", err)
	}
	made := &mergeSchema{
		parser: typed.Parser{Schema: smdschema.Schema{Types: converted.Types}},
		models: map[schema.GroupVersionKind]string{},
	}
	for gvk := range t.scheme.AllKnownTypes() {
		name, err := t.scheme.ToOpenAPIDefinitionName(gvk)
		if err != nil {
			return nil, fmt.Errorf("openapi: name of %s: %w", gvk, err)
		}
		if _, ok := models[name]; ok && gvk.Version != runtime.APIVersionInternal {
			made.models[gvk] = name
		}
	}
	return made, nil
}

// Warm makes the schema now, so that the first write need not wait for it.
func (t *Types) Warm() error {
	_, err := t.made()
	return err
}

// Schema returns the merge schema of all types and the name in it of a kind's own.
func (t *Types) Schema(gvk schema.GroupVersionKind) (*smdschema.Schema, string, error) {
	made, err := t.made()
	if err != nil {
		return nil, "", err
	}
	name, ok := made.models[gvk]
	if !ok {
		return nil, "", fmt.Errorf("openapi: no model of %s", gvk)
	}
	return &made.parser.Schema, name, nil
}

// ObjectToTyped implements managedfields.TypeConverter.
func (t *Types) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	made, err := t.made()
	if err != nil {
		return nil, err
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	name, ok := made.models[gvk]
	if !ok {
		return nil, fmt.Errorf("no corresponding type for %v", gvk)
	}
	model := made.parser.Type(name)
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
