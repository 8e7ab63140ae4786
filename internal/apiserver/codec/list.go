package codec

import (
	"io"

	"coracle/internal/apiserver/registry"
	"coracle/internal/apiserver/wire"
)

// list encodes a list, by package wire where it can.
func (e *sharedEncoder) list(l *registry.SharedList, w io.Writer, upstream encodeFunc) error {
	stamp := e.listStamp(l)
	if stamp == nil {
		list, err := l.Whole()
		if err != nil {
			return err
		}
		return upstream(list, w)
	}
	out := wire.List{Stamp: stamp, Meta: l.ListMeta, Items: l.Page}
	if e.form == jsonForm {
		return out.WriteJSON(w)
	}
	return out.WriteProtobuf(w)
}

// listStamp returns the stamp of a list, or nil if upstream must write it: in another form, or converted.
func (e *sharedEncoder) listStamp(l *registry.SharedList) *wire.Stamp {
	if e.form == otherForm {
		return nil
	}
	s := e.stampOf(l.NewList())
	if s.convert {
		return nil
	}
	return s.stamp
}
