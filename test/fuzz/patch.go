package fuzz

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Patch makes a patch of a kind for an object, seldom sound.
func (g Gen) Patch(format string, object map[string]any) []byte {
	if format == JSONPatch {
		return g.damage(g.operations())
	}
	if format != ApplyPatch {
		// A patch says no more than it changes.
		for _, key := range []string{"apiVersion", "kind", "metadata"} {
			if g.Intn(3) > 0 {
				delete(object, key)
			}
		}
	}
	object = g.mutated(object)
	if b := g.hostile("application/json"); b != nil {
		return b
	}
	if format == ApplyPatch && g.Intn(20) == 0 {
		return g.bomb()
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return nil
	}
	return g.damage(raw)
}

var (
	verbs = []string{"add", "add", "remove", "replace", "move", "copy", "test", "x", ""}
	paths = []string{"", "/", "/metadata/labels/fuzz", "/metadata/labels", "/metadata/name", "/metadata/annotations/x",
		"/metadata/annotations",
		"/metadata/managedFields", "/metadata/managedFields/0", "/metadata/resourceVersion", "/metadata/uid", "/metadata/~2",
		"/metadata/finalizers/-",
		"/spec", "/spec/replicas", "/spec/template/spec/containers", "/spec/template/spec/containers/0",
		"/spec/template/spec/containers/-",
		"/spec/containers/0/ports/-1", "/spec/containers/99999999999999999999", "/data", "/data/a", "/data/a/b", "/kind",
		"/apiVersion", "/a/b/c", "/x"}
)

// operations makes a JSON patch.
func (g Gen) operations() []byte {
	n := 1 + g.Intn(4)
	switch g.Intn(40) {
	case 0:
		n = 1 << g.Intn(14)
	case 1: // what copies itself
		ops := []any{map[string]any{"op": "add", "path": "/x",
			"value": map[string]any{"a": strings.Repeat("x", 1<<g.Intn(10))}}}
		for i := range 1 + g.Intn(30) {
			ops = append(ops, map[string]any{"op": "copy", "from": "/x", "path": fmt.Sprintf("/x/k%d", i)})
		}
		return marshal(ops)
	case 2: // what moves long lists
		ops := []any{map[string]any{"op": "add", "path": "/x", "value": g.many(int64(0), 1<<g.Intn(15))}}
		for range 1 << g.Intn(13) {
			ops = append(ops, map[string]any{"op": oneOf(g, "add", "add", "remove", "replace"),
				"path": oneOf(g, "/x/0", "/x/1", "/x/-"), "value": int64(1)})
		}
		return marshal(ops)
	}
	ops := make([]any, n)
	for i := range ops {
		ops[i] = map[string]any{"op": oneOf(g, verbs...), "path": oneOf(g, paths...), "from": oneOf(g, paths...),
			"value": g.nasty()}
	}
	return marshal(ops)
}

func marshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return raw
}
