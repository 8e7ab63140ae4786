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
func (memFile) Datasync() error                    { return errors.ErrUnsupported }
func (memFile) Close() error                       { return nil }

// FuzzScan reads arbitrary files: no panic, and no position outside the file.
func FuzzScan(f *testing.F) {
	file := newFileHeader(kindLog, 42)
	f.Add(file)
	file, _ = appendFrame(file, 42, []engine.Record{{Revision: 2, Key: "/a", Value: []byte("v")}})
	file, _ = appendFrame(file, 42, []engine.Record{{Revision: 3, Key: "/a", Delete: true}})
	f.Add(file)
	f.Add(append(file, make([]byte, 100)...))
	f.Add(append(file, "torn"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		e := &Engine{}
		salt, end, bad, err := e.scan("log", memFile(data), int64(len(data)), func(engine.Record) error { return nil })
		if end < 0 || end > int64(len(data)) {
			t.Fatalf("end %d of %d bytes", end, len(data))
		}
		if err == nil && bad != "" {
			if _, err := tornTail(memFile(data), salt, end, int64(len(data))); err != nil {
				t.Fatal(err)
			}
		}
	})
}
