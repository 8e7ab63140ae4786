package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound says that no image has the given name, identifier or digest.
	ErrNotFound = errors.New("image not found")
	// ErrInUse says that a container still stands on the image's layers.
	ErrInUse = errors.New("image is in use")
	// ErrFormat says that an archive is neither a docker-save nor an OCI archive.
	ErrFormat = errors.New("not an image archive")
)

// refAnnotation is the OCI image layout's annotation for a manifest's name.
const refAnnotation = "org.opencontainers.image.ref.name"

// Store is an open image store. It is safe for concurrent use, also with
// other processes that have the same directory open.
type Store struct {
	dir string

	mu    sync.Mutex
	stamp indexStamp
	names []entry
	infos map[v1.Hash]*info
}

// entry is one line of the index: a name (or none) and the manifest it means.
type entry struct {
	name string
	desc v1.Descriptor
}

// indexStamp tells one version of the index file from the next: it is
// replaced by rename, so its inode or its times differ.
type indexStamp struct {
	ino        uint64
	sec, nsec  int64
	size       int64
	csec, cnse int64
}

// info is what a manifest digest stands for; it never changes.
type info struct {
	id       string
	size     int64
	manifest *v1.Manifest
	config   *v1.ConfigFile
}

// Open opens the store in dir, making it when it is not there.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	// Images hold set-user-ID programs: nobody but root may reach them here (CVE-2021-41103).
	for _, d := range []string{"blobs/sha256", "layers", "leases", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	s := &Store{dir: dir, infos: map[v1.Hash]*info{}}
	layout := filepath.Join(dir, "oci-layout")
	if _, err := os.Stat(layout); errors.Is(err, os.ErrNotExist) {
		if err := writeAtomic(layout, []byte(`{"imageLayoutVersion":"1.0.0"}`+"\n")); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	return s, nil
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// entries returns the index as it is now on disk. The result is shared.
func (s *Store) entries() ([]entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := filepath.Join(s.dir, "index.json")
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, fmt.Errorf("read image index: %w", err)
	}
	stamp := indexStamp{st.Ino, st.Mtim.Sec, st.Mtim.Nsec, st.Size, st.Ctim.Sec, st.Ctim.Nsec}
	if stamp == s.stamp {
		return s.names, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read image index: %w", err)
	}
	var idx v1.IndexManifest
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, fmt.Errorf("read image index %s: %w", path, err)
	}
	names := make([]entry, 0, len(idx.Manifests))
	for _, d := range idx.Manifests {
		names = append(names, entry{d.Annotations[refAnnotation], d})
	}
	s.stamp, s.names = stamp, names
	return names, nil
}

// change rewrites the index under its lock.
func (s *Store) change(f func([]entry) []entry) error {
	unlock, err := s.lock(indexLock, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.entries()
	if err != nil {
		return err
	}
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	for _, e := range f(append([]entry(nil), old...)) {
		d := e.desc
		d.Annotations = nil
		if e.name != "" {
			d.Annotations = map[string]string{refAnnotation: e.name}
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		return fmt.Errorf("write image index: %w", err)
	}
	if err := writeAtomic(filepath.Join(s.dir, "index.json"), raw); err != nil {
		return fmt.Errorf("write image index: %w", err)
	}
	return nil
}

// tag gives a manifest its names; a name that meant another manifest moves.
// A manifest that thereby loses its last name stays, nameless, while a
// container uses its image.
func (s *Store) tag(desc v1.Descriptor, names ...string) error {
	if len(names) == 0 {
		names = []string{""}
	}
	used := s.usedImages()
	return s.change(func(old []entry) []entry {
		return retag(old, desc, names, func(e entry) bool {
			in, err := s.info(e.desc.Digest)
			return err == nil && used[in.id]
		})
	})
}

// retag works out the index after a manifest got its names.
func retag(old []entry, desc v1.Descriptor, names []string, used func(entry) bool) []entry {
	var kept, robbed []entry
	for _, e := range old {
		switch {
		case e.desc.Digest == desc.Digest && (e.name == "" || slices.Contains(names, e.name)):
			// It is written again below; a named manifest needs no nameless line beside it.
		case e.name != "" && slices.Contains(names, e.name):
			robbed = append(robbed, entry{"", e.desc})
		default:
			kept = append(kept, e)
		}
	}
	for _, n := range names {
		kept = append(kept, entry{n, desc})
	}
	for _, e := range robbed {
		has := slices.ContainsFunc(kept, func(k entry) bool { return k.desc.Digest == e.desc.Digest })
		if !has && used(e) {
			kept = append(kept, e)
		}
	}
	return kept
}

// info reads a manifest and its configuration, once.
func (s *Store) info(digest v1.Hash) (*info, error) {
	s.mu.Lock()
	in := s.infos[digest]
	s.mu.Unlock()
	if in != nil {
		return in, nil
	}
	var m v1.Manifest
	if err := s.readBlob(digest, &m); err != nil {
		return nil, err
	}
	var c v1.ConfigFile
	if err := s.readBlob(m.Config.Digest, &c); err != nil {
		return nil, err
	}
	in = &info{id: m.Config.Digest.String(), size: m.Config.Size, manifest: &m, config: &c}
	for _, l := range m.Layers {
		in.size += l.Size
	}
	in.config.History = nil
	s.mu.Lock()
	s.infos[digest] = in
	s.mu.Unlock()
	return in, nil
}

func writeAtomic(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
