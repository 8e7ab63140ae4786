package apiserver

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"coracle/internal/apiserver/wire"
	"coracle/internal/store"
)

// sharedList is a list that is not made: the objects are the store's own, and it is encoded from them as it is sent.
// The library, for which a type of lists has a field Items, passes it on as it is.
type sharedList struct {
	metav1.ListMeta
	page    *store.Page
	newList func() runtime.Object
}

var _ store.PageTaker = (*sharedList)(nil)

// TakePage implements store.PageTaker.
func (l *sharedList) TakePage(p *store.Page) { l.page = p }

// GetObjectKind implements runtime.Object.
func (l *sharedList) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. The objects are never changed, so that a copy may share them.
func (l *sharedList) DeepCopyObject() runtime.Object {
	return &sharedList{*l.ListMeta.DeepCopy(), l.page, l.newList}
}

// whole makes the list.
func (l *sharedList) whole() (runtime.Object, error) {
	list := l.newList()
	if err := l.page.Fill(list); err != nil {
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

// list encodes a list, by package wire where it can.
func (e *sharedEncoder) list(l *sharedList, w io.Writer, upstream encodeFunc) error {
	stamp := e.listStamp(l)
	if stamp == nil {
		list, err := l.whole()
		if err != nil {
			return err
		}
		return upstream(list, w)
	}
	out := wire.List{Stamp: stamp, Meta: l.ListMeta, Items: l.page}
	if e.form == jsonForm {
		return out.WriteJSON(w)
	}
	return out.WriteProtobuf(w)
}

// listStamp returns the stamp of a list, or nil if upstream must write it: in another form, or converted.
func (e *sharedEncoder) listStamp(l *sharedList) *wire.Stamp {
	if e.form == otherForm {
		return nil
	}
	s := e.stampOf(l.newList())
	if s.convert {
		return nil
	}
	return s.stamp
}

// plainListKey marks a request whose answer is sent as the kind that is stored: no table, no metadata alone, no other
// version.
type plainListKey struct{}

// List implements rest.Lister. For a request that is marked it makes no list.
func (o *registry) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	if ctx.Value(plainListKey{}) == nil {
		return o.Store.List(ctx, options)
	}
	return o.lists.List(ctx, options)
}

// listShared marks the plain lists of all kinds, under the version that is stored.
func (s *Server) listShared(r *routes) {
	for res := range s.objects {
		key := routeKey{group: res.Group, version: res.Version, resource: res.Plural, method: http.MethodGet}
		for _, key.namespaced = range []bool{false, true} {
			r.replace(key, markPlain)
		}
	}
}

// markPlain marks the lists among the requests of a route.
func markPlain(next restful.RouteFunction) restful.RouteFunction {
	return func(req *restful.Request, resp *restful.Response) {
		ctx := req.Request.Context()
		if info, ok := request.RequestInfoFrom(ctx); ok && info.Verb == "list" && asStored(req.Request.Header["Accept"]) {
			req = restful.NewRequest(req.Request.WithContext(context.WithValue(ctx, plainListKey{}, true)))
		}
		next(req, resp)
	}
}

// asStored says whether a header Accept asks for no transformation, which the parameter "as" does. No media type that
// is served has these letters.
func asStored(accept []string) bool {
	return !slices.ContainsFunc(accept, func(a string) bool { return strings.Contains(a, "as") })
}
