package kind

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// column is one column of `kubectl get`; wide ones show with -o wide only.
type column = metav1.TableColumnDefinition

func col(name, typ, description string) column {
	return column{Name: name, Type: typ, Description: description}
}

func wide(name, typ, description string) column {
	return column{Name: name, Type: typ, Description: description, Priority: 1}
}

func nameColumn() column {
	return column{Name: "Name", Type: "string", Format: "name", Description: "Name of the object, unique among its kind in its namespace."}
}

func ageColumn() column {
	return col("Age", "string", "Time since the object was created.")
}

// table prints the objects of one kind.
type table[T object] struct {
	columns []column
	// row returns the cells of one object, one per column.
	row func(obj T, now time.Time) []any
	// conditions says whether a row is done; nil for most kinds.
	conditions func(obj T) []metav1.TableRowCondition
}

func newTable[T object](row func(T, time.Time) []any, columns ...column) *table[T] {
	return &table[T]{columns: columns, row: row}
}

// marking adds row conditions.
func (t *table[T]) marking(conditions func(T) []metav1.TableRowCondition) *table[T] {
	t.conditions = conditions
	return t
}

// ConvertToTable implements rest.TableConvertor for one object or a list of them.
func (t *table[T]) ConvertToTable(_ context.Context, obj, tableOptions runtime.Object) (*metav1.Table, error) {
	now := clock()
	out := &metav1.Table{}
	if opts, ok := tableOptions.(*metav1.TableOptions); !ok || !opts.NoHeaders {
		out.ColumnDefinitions = t.columns
	}
	add := func(o runtime.Object) error {
		item, ok := o.(T)
		if !ok {
			return fmt.Errorf("print: unexpected type %T", o)
		}
		row := metav1.TableRow{Cells: t.row(item, now), Object: runtime.RawExtension{Object: item}}
		if t.conditions != nil {
			row.Conditions = t.conditions(item)
		}
		out.Rows = append(out.Rows, row)
		return nil
	}
	if !meta.IsListType(obj) {
		if m, err := meta.CommonAccessor(obj); err == nil {
			out.ResourceVersion = m.GetResourceVersion()
		}
		return out, add(obj)
	}
	list, err := meta.ListAccessor(obj)
	if err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	out.ResourceVersion = list.GetResourceVersion()
	out.Continue = list.GetContinue()
	out.RemainingItemCount = list.GetRemainingItemCount()
	out.Rows = make([]metav1.TableRow, 0, meta.LenList(obj))
	return out, meta.EachListItem(obj, add)
}

const (
	none    = "<none>"
	unset   = "<unset>"
	unknown = "<unknown>"
)

// age prints the time since t in kubectl's short form.
func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// ageMicro is age for the finer clock of leases and events.
func ageMicro(t metav1.MicroTime, now time.Time) string {
	return age(metav1.Time(t), now)
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}
