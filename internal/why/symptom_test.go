package why

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestReasonsAreSorted: whether a reason can be the root cause is said of each that a workload's planner gives, so that a
// new bound of a controller is not taken for the cause of what it waits for.
func TestReasonsAreSorted(t *testing.T) {
	found := map[string]string{}
	err := filepath.WalkDir("../workload", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			err = reasonsIn(path, found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 20 {
		t.Fatalf("only %d reasons are found: the planners give them in another way now", len(found))
	}
	for reason, path := range found {
		if symptoms[reason] == ends[reason] {
			t.Errorf("%s: is the reason %q a symptom, or may an explanation end at it? Say so in symptom.go, once", path, reason)
		}
	}
}

// reasonsIn collects the reasons that a file gives to waits as text.
func reasonsIn(path string, found map[string]string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		if list, ok := lit.Type.(*ast.ArrayType); ok && isWait(list.Elt) {
			for _, e := range lit.Elts {
				reasonOf(e, path, found)
			}
		} else if isWait(lit.Type) {
			reasonOf(lit, path, found)
		}
		return true
	})
	return nil
}

// isWait says that a type is plan.Wait.
func isWait(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && s.Sel.Name == "Wait"
}

func reasonOf(e ast.Expr, path string, found map[string]string) {
	lit, ok := e.(*ast.CompositeLit)
	if !ok {
		return
	}
	for _, field := range lit.Elts {
		kv, ok := field.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		key, _ := kv.Key.(*ast.Ident)
		value, ok := kv.Value.(*ast.BasicLit)
		if !ok || key == nil || key.Name != "Reason" {
			continue
		}
		if reason, err := strconv.Unquote(value.Value); err == nil {
			found[reason] = path
		}
	}
}
