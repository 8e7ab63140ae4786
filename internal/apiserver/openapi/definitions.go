// Package openapi knows the schemas of the types served: it publishes them as OpenAPI v2 and v3
// and turns objects into the typed values that server-side apply merges.
//
// It owns the generated models (definitions.json.gz, see gen) and decides when they cost
// something: never before somebody asks. It refuses routes, which it is handed, and knows no
// kind by name.
package openapi

//go:generate go run ./gen
//go:generate go test . -run ^TestMergeSchemaIsOfTheModels$ -update

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

//go:embed definitions.json.gz
var packed []byte

// model is one generated definition. References in it read "#/definitions/NAME".
type model struct {
	Schema       spec.Schema  `json:"schema"`
	V2           *spec.Schema `json:"v2,omitempty"`
	Dependencies []string     `json:"deps,omitempty"`
}

// load decodes the models: some 30 ms and 10 MB, so nothing keeps the result.
func load() (map[string]model, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("openapi: embedded models: %w", err)
	}
	var models map[string]model
	if err := json.NewDecoder(r).Decode(&models); err != nil {
		return nil, fmt.Errorf("openapi: embedded models: %w", err)
	}
	return models, nil
}

// definitions returns the models as the OpenAPI builders want them, with references made by ref.
func definitions(models map[string]model, ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	out := make(map[string]common.OpenAPIDefinition, len(models))
	for name, m := range models {
		schema := m.Schema
		rewrite(&schema, ref)
		if m.V2 != nil {
			schema.Extensions = spec.Extensions{common.ExtensionV2Schema: *m.V2}
		}
		out[name] = common.OpenAPIDefinition{Schema: schema, Dependencies: m.Dependencies}
	}
	return out
}

const refPrefix = "#/definitions/"

// rewrite replaces the references in a schema, in place.
func rewrite(s *spec.Schema, ref common.ReferenceCallback) {
	if text := s.Ref.String(); text != "" {
		s.Ref = ref(strings.TrimPrefix(text, refPrefix))
	}
	for name, property := range s.Properties {
		rewrite(&property, ref)
		s.Properties[name] = property
	}
	if s.Items != nil && s.Items.Schema != nil {
		rewrite(s.Items.Schema, ref)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		rewrite(s.AdditionalProperties.Schema, ref)
	}
	for _, list := range [][]spec.Schema{s.AllOf, s.OneOf, s.AnyOf} {
		for i := range list {
			rewrite(&list[i], ref)
		}
	}
}

const gvkExtension = "x-kubernetes-group-version-kind"

// namer returns the name and the group, version and kind extension of a definition. The scheme's
// internal versions, which alias the served types here, are not for publication.
func namer(scheme *runtime.Scheme) func(string) (string, spec.Extensions) {
	inner := openapinamer.NewDefinitionNamer(scheme)
	return func(name string) (string, spec.Extensions) {
		name, extensions := inner.GetDefinitionName(name)
		list, ok := extensions[gvkExtension].([]any)
		if !ok {
			return name, extensions
		}
		var public []any
		for _, entry := range list {
			if gvk, ok := entry.(map[string]any); ok && gvk["version"] == runtime.APIVersionInternal {
				continue
			}
			public = append(public, entry)
		}
		if len(public) == 0 {
			return name, nil
		}
		return name, spec.Extensions{gvkExtension: public}
	}
}
