package registry

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/client"
)

// selection is where a list or a watch looks: a key and a predicate.
func (o *Registry) Selection(opts client.ListOptions) (string, storage.ListOptions, error) {
	label, err := labels.Parse(opts.LabelSelector)
	if err != nil {
		return "", storage.ListOptions{}, apierrors.NewBadRequest(fmt.Sprintf("unable to parse label selector: %v", err))
	}
	field, err := fields.ParseSelector(opts.FieldSelector)
	if err != nil {
		return "", storage.ListOptions{}, apierrors.NewBadRequest(fmt.Sprintf("unable to parse field selector: %v", err))
	}
	key := KeyRoot(o.Kind.Resource)
	if o.Kind.Namespaced && opts.Namespace != "" {
		key += "/" + opts.Namespace
	}
	selected := storage.ListOptions{
		Recursive: true,
		Predicate: storage.SelectionPredicate{Label: label, Field: field, GetAttrs: o.Kind.GetAttrs},
	}
	if name, ok := selected.Predicate.MatchesSingle(); ok && (opts.Namespace != "" || !o.Kind.Namespaced) {
		key += "/" + name
		selected.Recursive = false
	}
	return key, selected, nil
}
