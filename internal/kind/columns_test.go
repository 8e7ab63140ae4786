package kind

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// printed renders a table as `kubectl get -o wide` lays it out, wide columns in brackets.
func printed(t *metav1.Table) string {
	var out strings.Builder
	for i, c := range t.ColumnDefinitions {
		if i > 0 {
			out.WriteString(" | ")
		}
		name := strings.ToUpper(c.Name)
		if c.Priority > 0 {
			name = "[" + name + "]"
		}
		out.WriteString(name)
	}
	out.WriteString("\n")
	for _, row := range t.Rows {
		var cells []string
		for _, cell := range row.Cells {
			cells = append(cells, fmt.Sprint(cell))
		}
		out.WriteString(strings.Join(cells, " | "))
		for _, c := range row.Conditions {
			out.WriteString(" (" + string(c.Type) + ": " + c.Reason + ")")
		}
		out.WriteString("\n")
	}
	return out.String()
}

// TestColumns prints the objects of testdata/columns, which are taken as stored: what `kubectl
// get` shows is part of the interface.
func TestColumns(t *testing.T) {
	files, _ := filepath.Glob("testdata/columns/*.yaml")
	if len(files) == 0 {
		t.Fatal("no objects")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var out strings.Builder
			last := ""
			for _, doc := range documents(t, file) {
				k, obj := decode(t, doc)
				table, err := k.Columns.ConvertToTable(context.Background(), obj, &metav1.TableOptions{NoHeaders: k.Kind == last})
				if err != nil {
					t.Fatal(err)
				}
				text := printed(table)
				if k.Kind == last {
					text = strings.TrimPrefix(text, "\n")
				}
				for _, row := range table.Rows {
					if table.ColumnDefinitions != nil && len(row.Cells) != len(table.ColumnDefinitions) {
						t.Errorf("%s: %d cells for %d columns", k.Kind, len(row.Cells), len(table.ColumnDefinitions))
					}
				}
				last = k.Kind
				out.WriteString(text)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".table", out.String())
		})
	}
}

func TestColumnsOfList(t *testing.T) {
	for _, k := range All() {
		table, err := k.Columns.ConvertToTable(context.Background(), k.NewList(), &metav1.TableOptions{})
		if err != nil || len(table.Rows) != 0 || len(table.ColumnDefinitions) == 0 {
			t.Errorf("%s: empty list: %v, %v", k.Kind, table, err)
		}
		table, err = k.Columns.ConvertToTable(context.Background(), k.New(), nil)
		if err != nil {
			t.Errorf("%s: zero object: %v", k.Kind, err)
			continue
		}
		for _, c := range table.ColumnDefinitions {
			if c.Description == "" {
				t.Errorf("%s: column %s has no description", k.Kind, c.Name)
			}
		}
	}
}
