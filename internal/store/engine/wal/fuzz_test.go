package wal

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"coracle/internal/store/engine"
)

func FuzzDecodeRecord(f *testing.F) {
	for _, r := range []engine.Record{
		{Revision: 1, Key: "/a", Value: []byte("v")}, {Revision: 1 << 40, Key: "", Delete: true},
		{Revision: 7, Key: "/pods/ns/name", Value: make([]byte, 300), Expires: 1 << 33},
	} {
		f.Add(appendRecord(nil, &r))
	}
	f.Add([]byte{1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, rest, err := decodeRecord(data)
		if err != nil {
			return
		}
		if len(rest) > len(data) {
			t.Fatal("rest grew")
		}
		again, rest, err := decodeRecord(appendRecord(nil, &r))
		if err != nil || len(rest) != 0 {
			t.Fatalf("decoding what was encoded: %v, %d bytes left", err, len(rest))
		}
		if diff := cmp.Diff(r, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// memFile is a File for reading.
type memFile []byte

func (m memFile) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, m[min(off, int64(len(m))):]), nil
}
func (m memFile) Size() (int64, error)             { return int64(len(m)), nil }
func (memFile) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (memFile) Truncate(int64) error               { return errors.ErrUnsupported }
func (memFile) Allocate(int64) error               { return errors.ErrUnsupported }
func (memFile) Datasync() error                    { return errors.ErrUnsupported }
func (memFile) Close() error                       { return nil }

// FuzzScan reads arbitrary files: no panic, and no position outside the file.
func FuzzScan(f *testing.F) {
	head := header{kind: kindLog, salt: 42, number: 1}
	file := head.encode()
	f.Add(file)
	for i, r := range []engine.Record{{Revision: 2, Key: "/a", Value: []byte("v")}, {Revision: 3, Key: "/a", Delete: true}} {
		file, _ = appendFrame(file, 42, int64(len(file)), []engine.Record{r})
		if f.Add(file); i == 0 {
			f.Add(file[:len(file)-1])
		}
	}
	f.Add(append(file, make([]byte, 100)...))
	f.Add(append(file, "torn"...))
	f.Add(append([]byte("coracle\x01L\x00\x00\x00salt\xc0\x4a\xc1\xe5\x00\x00\x00\x00"), make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &reader{f: memFile(data), size: int64(len(data))}
		if r.header(kindLog) != nil {
			return
		}
		end, bad, err := scan(r, func(engine.Record) error { return nil })
		if end < 0 || end > int64(len(data)) {
			t.Fatalf("end %d of %d bytes", end, len(data))
		}
		if err == nil && bad != "" {
			if _, err := unfinished(r, end); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzDecodeMark takes what it encodes, and nothing else.
func FuzzDecodeMark(f *testing.F) {
	m := mark{identity: identity{1}, revision: 7, log: link{number: 3, end: 200, salt: 9}, clean: true}
	var b [markSize]byte
	m.encode(&b)
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMark(data)
		if err != nil {
			return
		}
		var b [markSize]byte
		m.encode(&b)
		if again, err := decodeMark(b[:]); err != nil || again != m {
			t.Fatalf("%+v became %+v: %v", m, again, err)
		}
	})
}
