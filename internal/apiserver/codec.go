package apiserver

import (
	"io"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"coracle/internal/scheme"
)

// codecs is the negotiated serializer of every group. It differs from the scheme's own in that
// encoding never writes to the object: what the store and the watches hand out is shared.
type codecs struct {
	serializer.CodecFactory
}

func newCodecs() codecs {
	return codecs{serializer.NewCodecFactory(scheme.Scheme,
		serializer.WithStreamingCollectionEncodingToJSON(),
		serializer.WithStreamingCollectionEncodingToProtobuf())}
}

// EncoderForVersion implements runtime.NegotiatedSerializer.
func (c codecs) EncoderForVersion(encoder runtime.Encoder, gv runtime.GroupVersioner) runtime.Encoder {
	return sharedEncoder{c.CodecFactory.EncoderForVersion(encoder, gv), isPlainJSON(encoder)}
}

// DecoderToVersion implements runtime.NegotiatedSerializer.
func (c codecs) DecoderToVersion(decoder runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
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

// sharedEncoder encodes a shallow copy: the versioning encoder inside stamps apiVersion and kind
// on what it is given.
type sharedEncoder struct {
	inner runtime.Encoder
	// plainJSON: see codec_json.go.
	plainJSON bool
}

// Identifier implements runtime.Encoder.
func (e sharedEncoder) Identifier() runtime.Identifier { return e.inner.Identifier() }

// Encode implements runtime.Encoder.
func (e sharedEncoder) Encode(obj runtime.Object, w io.Writer) error {
	if cached, ok := obj.(runtime.CacheableObject); ok {
		return cached.CacheEncode(e.Identifier(), e.encode, w)
	}
	return e.encode(obj, w)
}

// EncodeWithAllocator implements runtime.EncoderWithAllocator, which the watch handler asks for.
func (e sharedEncoder) EncodeWithAllocator(obj runtime.Object, w io.Writer, mem runtime.MemoryAllocator) error {
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

func (e sharedEncoder) encode(obj runtime.Object, w io.Writer) error {
	return e.around(obj, w, e.inner.Encode)
}

// around encodes a copy of an object, which encode may stamp.
func (e sharedEncoder) around(obj runtime.Object, w io.Writer, encode encodeFunc) error {
	if e.plainJSON {
		return encodeJSON(obj, w, encode)
	}
	return encode(shallowCopy(obj), w)
}

// shallowCopy copies the outermost struct of an object, so that its TypeMeta can be set.
func shallowCopy(obj runtime.Object) runtime.Object {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return obj
	}
	c := reflect.New(v.Elem().Type())
	c.Elem().Set(v.Elem())
	return c.Interface().(runtime.Object)
}
