package body

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/apiserver/bounds"
	"coracle/internal/apiserver/gate"
	"coracle/internal/scheme"
)

// limitCopies gives the library its limit, which is a variable of it and without one unless somebody sets it.
var LimitCopies = sync.OnceFunc(func() { atomic.StoreInt64(&jsonpatch.AccumulatedCopySizeLimit, bounds.Copies) })

// read is a body in memory, with its weight. It is read from the beginning again by everybody who takes it.
type Body struct {
	*bytes.Reader
	io.Closer
	Raw    []byte
	Weight bounds.Weight
	// kind is empty for what is no patch.
	Patch types.PatchType
}

type bodyKey struct{}

// withBody is ctx with the body of its request.
func With(ctx context.Context, b *Body) context.Context {
	return context.WithValue(ctx, bodyKey{}, b)
}

// bodyOf returns the body of a request; nil in process.
func Of(ctx context.Context) *Body {
	body, _ := ctx.Value(bodyKey{}).(*Body)
	return body
}

// patchOf returns the patch that a request asks for; nil when it asks for none.
func PatchOf(ctx context.Context) *Body {
	if body := Of(ctx); body != nil && body.Patch != "" {
		return body
	}
	return nil
}

// mayBeLarge says whether what a write leaves can be too large: not if all of it is in a small body. Writers in
// process are the server's own, and what they make follows from objects that were within bounds.
func (r *Body) MayBeLarge() bool {
	return r != nil && (r.Patch != "" || len(r.Raw) >= bounds.Plenty)
}

// readBody reads and weighs the body of a request, and leaves it in its place. Kind is what a body is taken for that does
// not say.
func Read(req *http.Request, kind func() schema.GroupVersionKind) (*Body, error) {
	raw, err := allOf(req)
	if err != nil {
		return nil, err
	}
	format, _, _ := strings.Cut(req.Header.Get("Content-Type"), ";")
	format = strings.TrimSpace(format)
	body := &Body{Reader: bytes.NewReader(raw), Closer: req.Body, Raw: raw}
	if req.Method == http.MethodPatch {
		body.Patch = types.PatchType(format)
	}
	if body.Weight, err = weigh(raw, format, kind); err == nil {
		err = body.Weight.Check()
	}
	req.Body = body
	return body, Excessive(err)
}

// allOf reads the whole of a body that is not too long.
func allOf(req *http.Request) ([]byte, error) {
	if body, there := gate.Arrived(req.Body); there {
		return body, nil
	}
	if req.ContentLength > bounds.Body {
		return nil, tooLong()
	}
	var buf bytes.Buffer
	if req.ContentLength > 0 {
		buf.Grow(int(req.ContentLength) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(req.Body, bounds.Body+1))
	switch {
	case n > bounds.Body:
		return nil, tooLong()
	case err != nil:
		return nil, apierrors.NewBadRequest("the body could not be read to its end: " + err.Error())
	}
	return buf.Bytes(), nil
}

func tooLong() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", bounds.Body))
}

// weigh weighs a body by its format.
func weigh(raw []byte, format string, kind func() schema.GroupVersionKind) (bounds.Weight, error) {
	switch {
	case len(raw) == 0:
		return bounds.Weight{}, nil
	case bytes.HasPrefix(raw, bounds.ProtobufMagic):
		return weighProtobuf(raw, kind)
	case strings.Contains(format, "yaml"):
		return bounds.YAML(raw)
	}
	return bounds.JSON(raw), nil
}

// weighProtobuf weighs a body by the Go type that it will be decoded into: the one it names, or else that of the
// resource.
func weighProtobuf(raw []byte, kind func() schema.GroupVersionKind) (bounds.Weight, error) {
	version, name, object := bounds.Envelope(raw)
	gvk := schema.FromAPIVersionAndKind(version, name)
	if name == "" {
		gvk = kind()
	}
	obj, err := scheme.Scheme.New(gvk)
	if err != nil {
		return bounds.Weight{}, nil //nolint:nilerr // the decoder does not know it either
	}
	t := reflect.TypeOf(obj)
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return bounds.Weight{}, nil
	}
	return bounds.Protobuf(object, t.Elem()), nil
}

// excessive makes an error of the API out of an excess; others it returns as they are.
func Excessive(err error) error {
	var e *bounds.Excess
	if !errors.As(err, &e) {
		return err
	}
	if e.Malformed {
		return apierrors.NewBadRequest(e.Error())
	}
	status := apierrors.NewRequestEntityTooLargeError(e.Error())
	if e.Param != "" {
		status = apierrors.NewBadRequest(e.Error())
		status.ErrStatus.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{
			{Type: metav1.CauseTypeFieldValueInvalid, Message: e.Error(), Field: e.Param},
		}}
	}
	return status
}
