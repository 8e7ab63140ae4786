// Package mergeschema is the merge schema of the types served: which lists are sets or maps and by which keys, as
// structured-merge-diff wants it (KEP-555).
//
// It owns the schema as static data, made by a test of openapi from that room's models. Data that the linker lays out
// cost a start nothing and are read from the file page by page; decoding the models cost every start 30 ms of CPU and
// 10 MB of garbage.
package mergeschema

import (
	"sync"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Parser returns the parser of the types served, by the names of their models. Its schema is not to be changed.
var Parser = sync.OnceValue(func() *typed.Parser {
	for i := range types {
		fill(&types[i].Atom)
	}
	return &typed.Parser{Schema: schema.Schema{Types: types}}
})

// emptyObject stands for a default that is an object without fields: a map in its place would be made while the program
// starts, in every process of it.
type emptyObject struct{}

// fill puts real values in the place of those that stand for them.
func fill(a *schema.Atom) {
	if a.List != nil {
		fill(&a.List.ElementType.Inlined)
	}
	if a.Map == nil {
		return
	}
	fill(&a.Map.ElementType.Inlined)
	for i := range a.Map.Fields {
		f := &a.Map.Fields[i]
		if _, ok := f.Default.(emptyObject); ok {
			f.Default = map[string]any{}
		}
		fill(&f.Type.Inlined)
	}
}

// What the types point to. The library only reads a schema.
var (
	scalarNumeric = schema.Numeric
	scalarString  = schema.String
	scalarBoolean = schema.Boolean
	scalarUntyped = schema.Untyped

	relationSeparable = schema.Separable
)
