package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func (s *Store) blobPath(h v1.Hash) string {
	return filepath.Join(s.dir, "blobs", h.Algorithm, h.Hex)
}

func (s *Store) hasBlob(h v1.Hash) bool {
	_, err := os.Stat(s.blobPath(h))
	return err == nil
}

func (s *Store) readBlob(h v1.Hash, into any) error {
	raw, err := os.ReadFile(s.blobPath(h))
	if err != nil {
		return fmt.Errorf("read blob %s: %w", h, err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("read blob %s: %w", h, err)
	}
	return nil
}

// blobWriter receives a blob whose digest is known only at its end.
type blobWriter struct {
	s    *Store
	room *room
	f    *os.File
	hash hash.Hash
	size int64
}

func (s *Store) newBlob() (*blobWriter, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "blob-*")
	if err != nil {
		return nil, fmt.Errorf("write blob: %w", err)
	}
	return &blobWriter{s: s, room: s.room(), f: f, hash: sha256.New()}, nil
}

func (w *blobWriter) Write(p []byte) (int, error) {
	if err := w.room.take(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// abort throws away what was written; after commit it does nothing.
func (w *blobWriter) abort() {
	if w.f != nil {
		w.f.Close()
		os.Remove(w.f.Name())
		w.f = nil
	}
}

// commit makes the blob durable under its digest.
func (w *blobWriter) commit() (v1.Hash, error) {
	defer w.abort()
	h := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(w.hash.Sum(nil))}
	if w.s.hasBlob(h) {
		return h, nil
	}
	if err := w.f.Sync(); err != nil {
		return h, fmt.Errorf("write blob %s: %w", h, err)
	}
	if err := w.f.Chmod(0o644); err != nil {
		return h, fmt.Errorf("write blob %s: %w", h, err)
	}
	if err := os.Rename(w.f.Name(), w.s.blobPath(h)); err != nil {
		return h, fmt.Errorf("write blob %s: %w", h, err)
	}
	return h, nil
}

// putBlob stores what r holds and returns its digest and size.
func (s *Store) putBlob(r io.Reader) (v1.Hash, int64, error) {
	w, err := s.newBlob()
	if err != nil {
		return v1.Hash{}, 0, err
	}
	defer w.abort()
	if _, err := io.Copy(w, r); err != nil {
		return v1.Hash{}, 0, fmt.Errorf("write blob: %w", err)
	}
	h, err := w.commit()
	return h, w.size, err
}

// putJSON stores a value as a blob.
func (s *Store) putJSON(v any) (v1.Hash, int64, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return v1.Hash{}, 0, fmt.Errorf("write blob: %w", err)
	}
	w, err := s.newBlob()
	if err != nil {
		return v1.Hash{}, 0, err
	}
	defer w.abort()
	if _, err := w.Write(raw); err != nil {
		return v1.Hash{}, 0, fmt.Errorf("write blob: %w", err)
	}
	h, err := w.commit()
	return h, w.size, err
}
