package store

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	kruntime "k8s.io/apimachinery/pkg/runtime"
)

// Page is what a list found: objects of one revision, in the order of their keys. It refers to the stored objects
// with a word for each, and holds none of them twice.
type Page struct {
	versions  []*version
	rev       int64
	next      string // continue token
	remaining *int64
}

// Len returns how many objects there are.
func (p *Page) Len() int { return len(p.versions) }

// At returns an object, shared: it must not be changed.
func (p *Page) At(i int) kruntime.Object { return p.versions[i].value() }

// PageTaker is a list object that takes what was found as it is, where GetList would copy the objects into another.
type PageTaker interface {
	kruntime.Object
	// TakePage is called before the list's metadata are set.
	TakePage(*Page)
}

// Fill puts shallow copies of the objects into the items of a list.
func (p *Page) Fill(list kruntime.Object) error {
	itemsPtr, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	items, err := conversion.EnforcePtr(itemsPtr)
	if err != nil || items.Kind() != reflect.Slice {
		return fmt.Errorf("need a pointer to a slice of items in %T: %w", list, err)
	}
	return p.fillItems(items)
}

// fillItems makes items a slice of shallow copies, never nil.
func (p *Page) fillItems(items reflect.Value) error {
	out := reflect.MakeSlice(items.Type(), p.Len(), p.Len())
	elem := items.Type().Elem()
	for i := range p.Len() {
		obj := p.At(i)
		if elem.Kind() == reflect.Interface {
			out.Index(i).Set(reflect.ValueOf(shallow(obj)))
			continue
		}
		if u, ok := obj.(kruntime.Unstructured); ok {
			obj = u.DeepCopyObject()
		}
		src := reflect.ValueOf(obj).Elem()
		if src.Type() != elem {
			return fmt.Errorf("cannot list %T into a slice of %v", obj, elem)
		}
		out.Index(i).Set(src)
	}
	items.Set(out)
	return nil
}
