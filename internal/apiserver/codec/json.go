package codec

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8sjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// isPlainJSON says whether an encoder writes compact JSON.
func isPlainJSON(e runtime.Encoder) bool {
	if _, ok := e.(*k8sjson.Serializer); !ok {
		return false
	}
	id := string(e.Identifier())
	return strings.Contains(id, `"name":"json"`) && strings.Contains(id, `"pretty":"false"`) && strings.Contains(id, `"yaml":"false"`)
}

// isProtobuf says whether an encoder writes objects in their envelope.
func isProtobuf(e runtime.Encoder) bool {
	_, ok := e.(*protobuf.Serializer)
	return ok
}

// JSON that is already in its final form need not be read again: encoding/json would read and copy a whole object byte
// by byte once more inside its watch event.

// finalObject returns the object of an event that our encoder has just written: one line, ended by a newline.
func finalObject(e *metav1.WatchEvent) ([]byte, bool) {
	raw := e.Object.Raw
	n := len(raw)
	if e.Object.Object != nil || n < 3 || raw[0] != '{' || raw[n-1] != '\n' || raw[n-2] != '}' || bytes.IndexByte(raw, '\n') != n-1 {
		return nil, false
	}
	return raw[:n-1], true
}

func writeEvent(kind string, raw []byte, w io.Writer) error {
	name, err := json.Marshal(kind)
	if err != nil {
		return err
	}
	if b, ok := w.(*bytes.Buffer); ok {
		b.Grow(len(name) + len(raw) + 24)
	}
	for _, part := range [][]byte{[]byte(`{"type":`), name, []byte(`,"object":`), raw, []byte("}\n")} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}
