package registry

import (
	"context"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"coracle/internal/store"
)

// sharedList is a list that is not made: the objects are the store's own, and it is encoded from them as it is sent.
// The library, for which a type of lists has a field Items, passes it on as it is.
type SharedList struct {
	metav1.ListMeta
	Page    *store.Page
	NewList func() runtime.Object
}

var _ store.PageTaker = (*SharedList)(nil)

// TakePage implements store.PageTaker.
func (l *SharedList) TakePage(p *store.Page) { l.Page = p }

// GetObjectKind implements runtime.Object.
func (l *SharedList) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. The objects are never changed, so that a copy may share them.
func (l *SharedList) DeepCopyObject() runtime.Object {
	return &SharedList{*l.ListMeta.DeepCopy(), l.Page, l.NewList}
}

// whole makes the list.
func (l *SharedList) Whole() (runtime.Object, error) {
	list := l.NewList()
	if err := l.Page.Fill(list); err != nil {
		return nil, err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(l.ResourceVersion)
	m.SetContinue(l.Continue)
	m.SetRemainingItemCount(l.RemainingItemCount)
	if sharded, ok := list.(metav1.ShardedListInterface); ok {
		sharded.SetShardInfo(l.ShardInfo)
	}
	return list, nil
}

// plainListKey marks a request whose answer is sent as the kind that is stored: no table, no metadata alone, no other
// version.
type plainListKey struct{}

// plainList marks a request.
func PlainList(ctx context.Context) context.Context {
	return context.WithValue(ctx, plainListKey{}, true)
}

// List implements rest.Lister. For a request that is marked it makes no list.
func (o *Registry) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	if ctx.Value(plainListKey{}) == nil {
		return o.Store.List(ctx, options)
	}
	return o.lists.List(ctx, options)
}

// shallowCopy copies the outermost struct of an object, so that its TypeMeta can be set.
func ShallowCopy(obj runtime.Object) runtime.Object {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return obj
	}
	c := reflect.New(v.Elem().Type())
	c.Elem().Set(v.Elem())
	return c.Interface().(runtime.Object)
}
