package codec

import (
	"encoding/json"
	"io"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"coracle/internal/apiserver/registry"
	"coracle/internal/apiserver/wire"
	"coracle/internal/scheme"
)

// codecs is the negotiated serializer of every group. It differs from the scheme's own in that
// encoding never writes to the object, because what the store and the watches hand out is shared, and in that package
// wire writes what is sent most.
type Codecs struct {
	serializer.CodecFactory
	// made has the encoders, by encoderKey: there are a few for each group version.
	made *sync.Map
}

// encoderKey is what an encoder is for.
type encoderKey struct {
	serializer runtime.Encoder
	version    schema.GroupVersion
}

func New() Codecs {
	return Codecs{serializer.NewCodecFactory(scheme.Scheme,
		serializer.WithStreamingCollectionEncodingToJSON(),
		serializer.WithStreamingCollectionEncodingToProtobuf()), &sync.Map{}}
}

// EncoderForVersion implements runtime.NegotiatedSerializer.
func (c Codecs) EncoderForVersion(encoder runtime.Encoder, gv runtime.GroupVersioner) runtime.Encoder {
	version, simple := gv.(schema.GroupVersion)
	if !simple {
		return &sharedEncoder{inner: c.CodecFactory.EncoderForVersion(encoder, gv)}
	}
	key := encoderKey{encoder, version}
	if known, ok := c.made.Load(key); ok {
		return known.(*sharedEncoder)
	}
	e := &sharedEncoder{inner: c.CodecFactory.EncoderForVersion(encoder, gv), version: version, form: formOf(encoder)}
	known, _ := c.made.LoadOrStore(key, e)
	return known.(*sharedEncoder)
}

// DecoderToVersion implements runtime.NegotiatedSerializer.
func (c Codecs) DecoderToVersion(decoder runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	return bareDecoder{c.CodecFactory.DecoderToVersion(decoder, gv)}
}

// bareDecoder drops apiVersion and kind from what it decodes: objects in memory carry neither, as
// upstream's internal types do not, so that items of a list do not repeat them.
type bareDecoder struct {
	inner runtime.Decoder
}

// Decode implements runtime.Decoder.
func (d bareDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := d.inner.Decode(data, defaults, into)
	if obj != nil {
		if _, isUnstructured := obj.(runtime.Unstructured); !isUnstructured {
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
	}
	return obj, gvk, err
}

// form is what an encoder writes.
type form int

const (
	otherForm form = iota // pretty JSON, YAML, CBOR: upstream's serializers
	jsonForm
	protobufForm
)

// formOf returns the form that a serializer of the codec factory writes.
func formOf(e runtime.Encoder) form {
	switch {
	case isPlainJSON(e):
		return jsonForm
	case isProtobuf(e):
		return protobufForm
	}
	return otherForm
}

// sharedEncoder encodes objects of the store. It is safe for concurrent use.
type sharedEncoder struct {
	inner   runtime.Encoder
	version schema.GroupVersion
	form    form
	// stamps are by reflect.Type, of what it points to.
	stamps sync.Map
}

// Identifier implements runtime.Encoder.
func (e *sharedEncoder) Identifier() runtime.Identifier { return e.inner.Identifier() }

// Encode implements runtime.Encoder.
func (e *sharedEncoder) Encode(obj runtime.Object, w io.Writer) error {
	if cached, ok := obj.(runtime.CacheableObject); ok {
		return cached.CacheEncode(e.Identifier(), e.encode, w)
	}
	return e.encode(obj, w)
}

// EncodeWithAllocator implements runtime.EncoderWithAllocator, which the handlers ask for.
func (e *sharedEncoder) EncodeWithAllocator(obj runtime.Object, w io.Writer, mem runtime.MemoryAllocator) error {
	inner, ok := e.inner.(runtime.EncoderWithAllocator)
	if !ok {
		return e.Encode(obj, w)
	}
	encode := func(o runtime.Object, w io.Writer) error {
		return e.around(o, w, func(o runtime.Object, w io.Writer) error { return inner.EncodeWithAllocator(o, w, mem) })
	}
	if cached, ok := obj.(runtime.CacheableObject); ok {
		return cached.CacheEncode(e.Identifier(), encode, w)
	}
	return encode(obj, w)
}

func (e *sharedEncoder) encode(obj runtime.Object, w io.Writer) error {
	return e.around(obj, w, e.inner.Encode)
}

// encodeFunc is upstream's way to encode. It may write apiVersion and kind to the object.
type encodeFunc func(obj runtime.Object, w io.Writer) error

// around encodes by package wire, or else a copy of the object by upstream's way.
func (e *sharedEncoder) around(obj runtime.Object, w io.Writer, upstream encodeFunc) error {
	if l, ok := obj.(*registry.SharedList); ok {
		return e.list(l, w, upstream)
	}
	if e.form == otherForm {
		return upstream(registry.ShallowCopy(obj), w)
	}
	if event, ok := obj.(*metav1.WatchEvent); ok {
		if raw, ok := finalObject(event); ok && e.form == jsonForm {
			return writeEvent(event.Type, raw, w)
		}
		return upstream(registry.ShallowCopy(obj), w)
	}
	s := e.stampOf(obj)
	if s.stamp == nil || s.list || !obj.GetObjectKind().GroupVersionKind().Empty() {
		return upstream(registry.ShallowCopy(obj), w)
	}
	if s.convert {
		out, err := scheme.Scheme.UnsafeConvertToVersion(registry.ShallowCopy(obj), e.version)
		if err != nil {
			return err
		}
		out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		obj = out
	}
	return e.write(s.stamp, obj, w)
}

// write encodes an object in one piece: by the length of the first, the writer of answers decides whether it squeezes.
func (e *sharedEncoder) write(s *wire.Stamp, obj runtime.Object, w io.Writer) (err error) {
	b := wire.Borrow()
	defer wire.Return(b)
	if e.form == jsonForm {
		*b, err = s.AppendJSON(*b, obj)
	} else {
		*b, err = s.AppendProtobuf(*b, obj)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(*b)
	return err
}

// stamping is how objects of a type are stamped.
type stamping struct {
	stamp *wire.Stamp // nil leaves the type to upstream's way
	// convert says that they are sent as another type.
	convert bool
	// list says that they are lists, which are written in pieces.
	list bool
}

func (e *sharedEncoder) stampOf(obj runtime.Object) stamping {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return stamping{}
	}
	t := v.Type().Elem()
	if known, ok := e.stamps.Load(t); ok {
		return known.(stamping)
	}
	s := e.newStamp(t)
	e.stamps.Store(t, s)
	return s
}

// newStamp finds out by an empty object what upstream's codec would make of one of the type.
func (e *sharedEncoder) newStamp(t reflect.Type) stamping {
	empty, ok := reflect.New(t).Interface().(runtime.Object)
	if !ok || !wireable(empty) {
		return stamping{}
	}
	kinds, unversioned, err := scheme.Scheme.ObjectKinds(empty)
	if err != nil || len(kinds) == 0 {
		return stamping{}
	}
	if unversioned {
		return stamping{stamp: wire.NewStamp(kinds[0]), list: meta.IsListType(empty)}
	}
	out, err := scheme.Scheme.UnsafeConvertToVersion(empty, e.version)
	if err != nil || !wireable(out) {
		return stamping{}
	}
	return stamping{wire.NewStamp(out.GetObjectKind().GroupVersionKind()), reflect.TypeOf(out).Elem() != t, meta.IsListType(out)}
}

// wireable says whether package wire writes an object: one that has a form of its own, or others within it, it does
// not.
func wireable(obj runtime.Object) bool {
	switch obj.(type) {
	case json.Marshaler, runtime.Unstructured, *runtime.Unknown, runtime.NestedObjectEncoder:
		return false
	}
	_, hasProtobuf := obj.(runtime.ProtobufReverseMarshaller)
	return hasProtobuf
}
