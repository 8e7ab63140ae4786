// Package blob is the record encoding for engines that store plain byte strings.
package blob

import (
	"encoding/binary"
	"errors"

	"coracle/internal/store/engine"
)

// Append encodes r.
func Append(buf []byte, r *engine.Record) []byte {
	buf = binary.LittleEndian.AppendUint64(buf, uint64(r.Revision))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(r.Expires))
	var del byte
	if r.Delete {
		del = 1
	}
	buf = append(buf, del)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(r.Key)))
	buf = append(buf, r.Key...)
	return append(buf, r.Value...)
}

// Decode reads what Append wrote; Value is a part of data.
func Decode(data []byte) (engine.Record, error) {
	if len(data) < 21 {
		return engine.Record{}, errors.New("blob: too short")
	}
	n := int(binary.LittleEndian.Uint32(data[17:]))
	if len(data) < 21+n {
		return engine.Record{}, errors.New("blob: too short")
	}
	return engine.Record{
		Revision: int64(binary.LittleEndian.Uint64(data)), Expires: int64(binary.LittleEndian.Uint64(data[8:])),
		Delete: data[16] == 1, Key: string(data[21 : 21+n]), Value: data[21+n:],
	}, nil
}
