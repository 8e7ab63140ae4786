package apiserver

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/client"
)

// selection is where a list or a watch looks: a key and a predicate.
func (o *registry) selection(opts client.ListOptions) (string, storage.ListOptions, error) {
	label, err := labels.Parse(opts.LabelSelector)
	if err != nil {
		return "", storage.ListOptions{}, apierrors.NewBadRequest(fmt.Sprintf("unable to parse label selector: %v", err))
	}
	field, err := fields.ParseSelector(opts.FieldSelector)
	if err != nil {
		return "", storage.ListOptions{}, apierrors.NewBadRequest(fmt.Sprintf("unable to parse field selector: %v", err))
	}
	key := keyRoot(o.kind.Resource)
	if o.kind.Namespaced && opts.Namespace != "" {
		key += "/" + opts.Namespace
	}
	selected := storage.ListOptions{
		Recursive: true,
		Predicate: storage.SelectionPredicate{Label: label, Field: field, GetAttrs: o.kind.GetAttrs},
	}
	if name, ok := selected.Predicate.MatchesSingle(); ok && (opts.Namespace != "" || !o.kind.Namespaced) {
		key += "/" + name
		selected.Recursive = false
	}
	return key, selected, nil
}
