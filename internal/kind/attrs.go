package kind

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/resource"
	"coracle/internal/scheme"
)

type object interface {
	metav1.Object
	runtime.Object
}

// selectable describes a kind's field selectors beyond metadata.
type selectable[T object] struct {
	names []string
	fill  func(obj T, set fields.Set)
}

// metaFields returns the fields every kind of the scope has.
func metaFields(res resource.Resource) []string {
	if res.Namespaced {
		return []string{"metadata.name", "metadata.namespace"}
	}
	return []string{"metadata.name"}
}

func attrsOf[T object](res resource.Resource, s selectable[T]) storage.AttrFunc {
	size := len(s.names) + 2
	return func(o runtime.Object) (labels.Set, fields.Set, error) {
		obj, ok := o.(T)
		if !ok {
			return nil, nil, fmt.Errorf("%s: unexpected type %T", res, o)
		}
		set := make(fields.Set, size)
		set["metadata.name"] = obj.GetName()
		if res.Namespaced {
			set["metadata.namespace"] = obj.GetNamespace()
		}
		if s.fill != nil {
			s.fill(obj, set)
		}
		return labels.Set(obj.GetLabels()), set, nil
	}
}

// register tells the scheme about the kinds' defaults and field labels. Kinds without fields of
// their own are left to the scheme's general rule, which knows metadata.name and metadata.namespace.
func register(kinds []Kind) {
	for _, k := range kinds {
		if k.Default != nil {
			def := k.Default
			scheme.Scheme.AddTypeDefaultingFunc(k.New(), func(o any) { def(o.(runtime.Object)) })
		}
		if len(k.SelectableFields) > len(metaFields(k.Resource)) {
			known := make(map[string]bool, len(k.SelectableFields))
			for _, f := range k.SelectableFields {
				known[f] = true
			}
			utilruntime.Must(scheme.Scheme.AddFieldLabelConversionFunc(k.GVK(),
				func(label, value string) (string, string, error) {
					if !known[label] {
						return "", "", fmt.Errorf("field label not supported: %s", label)
					}
					return label, value, nil
				}))
		}
		for alias, names := range k.fieldLabels {
			utilruntime.Must(scheme.Scheme.AddFieldLabelConversionFunc(alias.GVK(),
				func(label, value string) (string, string, error) {
					name, ok := names[label]
					if !ok {
						return "", "", fmt.Errorf("field label not supported: %s", label)
					}
					return name, value, nil
				}))
		}
	}
}

func init() { register(all) }
