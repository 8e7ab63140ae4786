package registry

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"coracle/internal/apiserver/body"
	"coracle/internal/apiserver/openapi"
)

// faultTime bounds the search for the field at fault: beyond it the part found so far must do.
const faultTime = 100 * time.Millisecond

// faultOf returns the path of the field of a patch that makes it fail, as far as it can be found; "" when it cannot.
func (c careful) faultOf(patch *body.Body, live kruntime.Object) string {
	content := map[string]any{}
	if err := yaml.Unmarshal(patch.Raw, &content); err != nil {
		return ""
	}
	gvk := c.about.gvk
	var fails func(part map[string]any) bool
	switch patch.Patch {
	case types.ApplyYAMLPatchType:
		fails = func(part map[string]any) bool {
			u := &unstructured.Unstructured{Object: part}
			part["apiVersion"], part["kind"] = gvk.GroupVersion().String(), gvk.Kind
			_, err := c.about.types.ObjectToTyped(u)
			return err != nil || kruntime.DefaultUnstructuredConverter.FromUnstructured(part, c.about.make()) != nil
		}
	case types.StrategicMergePatchType:
		fails = func(part map[string]any) bool { return strategicFails(live, part, c.about.make()) }
	default:
		return ""
	}
	return fault(content, fails, time.Now().Add(faultTime))
}

// strategicFails says whether a strategic merge patch fails with an object.
func strategicFails(live kruntime.Object, patch map[string]any, like kruntime.Object) (failed bool) {
	defer func() {
		if recover() != nil {
			failed = true
		}
	}()
	original, err := kruntime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return false
	}
	merged, err := strategicpatch.StrategicMergeMapPatch(original, kruntime.DeepCopyJSON(patch), like)
	return err != nil || kruntime.DefaultUnstructuredConverter.FromUnstructured(merged, like) != nil
}

// fault returns the path of the field by which a patch fails. It goes down, through fields and elements, into the
// one part that fails by itself, and stops where even the empty part does. An element of a list is tried with its
// texts and numbers, among which are its keys.
func fault(content map[string]any, fails func(part map[string]any) bool, until time.Time) string {
	var path []step
	try := func(path []step, value any) bool {
		return time.Now().Before(until) && fails(enclose(path, value))
	}
	var value any = content
	for {
		next, inner, ok := failing(path, value, try)
		if !ok {
			return spell(path)
		}
		path, value = append(path, next), inner
		switch v := inner.(type) {
		case map[string]any:
			if next.name == "" {
				base := scalars(v)
				path[len(path)-1].base = base
				if try(path, map[string]any{}) {
					return spell(append(path, blamed(path, base, try)...))
				}
				continue
			}
			if try(path, map[string]any{}) {
				return spell(path)
			}
		case []any:
			if try(path, []any{}) {
				return spell(path)
			}
		default:
			return spell(path)
		}
	}
}

// step is one part of a path: a field, or an element of a list, which is then taken with base.
type step struct {
	name  string
	index int
	base  map[string]any
}

// enclose returns the value with nothing around it but what its path needs.
func enclose(path []step, value any) map[string]any {
	value = kruntime.DeepCopyJSONValue(value) // trials change what they are given
	for i := len(path) - 1; i >= 0; i-- {
		if path[i].name != "" {
			value = map[string]any{path[i].name: value}
			continue
		}
		if m, ok := value.(map[string]any); ok {
			for name, scalar := range path[i].base {
				if _, ok := m[name]; !ok {
					m[name] = scalar
				}
			}
		}
		value = []any{value}
	}
	whole, ok := value.(map[string]any)
	if !ok {
		return map[string]any{}
	}
	return whole
}

// failing returns the first part of a value that fails by itself.
func failing(path []step, value any, try func(path []step, value any) bool) (next step, inner any, ok bool) {
	at := path[:len(path):len(path)]
	switch v := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if name != "" && try(append(at, step{name: name}), v[name]) {
				return step{name: name}, v[name], true
			}
		}
	case []any:
		for i, inner := range v {
			if try(append(at, step{index: i}), inner) {
				return step{index: i}, inner, true
			}
		}
	}
	return step{}, nil, false
}

// blamed returns the one scalar of an element without which it would not fail, if there is one.
func blamed(path []step, base map[string]any, try func(path []step, value any) bool) []step {
	for _, name := range slices.Sorted(maps.Keys(base)) {
		rest := maps.Clone(base)
		delete(rest, name)
		without := slices.Clone(path)
		without[len(without)-1].base = rest
		if !try(without, map[string]any{}) {
			return []step{{name: name}}
		}
	}
	return nil
}

// scalars returns the fields of an element that are neither objects nor lists.
func scalars(element map[string]any) map[string]any {
	base := map[string]any{}
	for name, value := range element {
		switch value.(type) {
		case map[string]any, []any:
		default:
			base[name] = value
		}
	}
	return base
}

// spell writes a path as the API does: spec.containers[0].name.
func spell(path []step) string {
	var b strings.Builder
	for _, s := range path {
		switch {
		case s.name == "":
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case b.Len() > 0:
			b.WriteString("." + s.name)
		default:
			b.WriteString(s.name)
		}
	}
	return b.String()
}

// typer converts objects for merging.
type typer struct{ *openapi.Types }

// lameness says why a stored object cannot be merged with.
type lameness struct {
	path   *field.Path
	value  any
	reason string
}

// unmergeable returns what is wrong with a stored object in the eyes of server-side apply, or nil: a list in it may
// have two elements with one key, which updates allow and apply does not.
func (s *subject) unmergeable(live kruntime.Object) *lameness {
	stamped := ShallowCopy(live)
	stamped.GetObjectKind().SetGroupVersionKind(s.gvk)
	_, err := s.types.ObjectToTyped(stamped, typed.AllowDuplicates)
	if err == nil {
		return nil
	}
	lame := &lameness{path: field.NewPath("metadata"), reason: err.Error()}
	var errs typed.ValidationErrors
	if errors.As(err, &errs) && len(errs) > 0 {
		lame.path, lame.reason = field.NewPath(strings.TrimPrefix(errs[0].Path, ".")), errs[0].ErrorMessage
	}
	return lame
}
