package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
)

// archive is an image archive spread out in a directory of the store: every
// file of it, named by its path in the archive.
type archive struct {
	dir string
}

// saved is one element of docker save's manifest.json.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Import reads an archive made by docker save, or a tar of an OCI image
// layout, plain or compressed, and returns the images it held. Nothing is
// named before all of it is stored. It fails with ErrFormat when r is neither.
func (s *Store) Import(r io.Reader) ([]Image, error) {
	defer s.settle()
	unlock, err := s.lock(contentLock, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "import-*")
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	defer filetree.Remove(dir) //nolint:errcheck // what is left goes with the next collection
	a := archive{dir}
	if err := a.spread(r, s.room()); err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	return s.importFrom(a)
}

// ImportLayout imports the images of an OCI image layout directory.
func (s *Store) ImportLayout(dir string) ([]Image, error) {
	defer s.settle()
	unlock, err := s.lock(contentLock, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return s.importFrom(archive{dir})
}

func (s *Store) importFrom(a archive) ([]Image, error) {
	// Recent docker save writes both forms; only manifest.json has full names.
	form := s.importDocker
	if !a.has("manifest.json") {
		form = s.importOCI
		if !a.has("index.json") {
			return nil, fmt.Errorf("import image: %w: it has neither manifest.json (docker save) nor index.json (OCI layout)", ErrFormat)
		}
	}
	images, err := form(a)
	if err == nil && len(images) == 0 {
		err = errNone
	}
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	return images, nil
}

// spread extracts the regular files of the archive; paths stay inside.
func (a archive) spread(r io.Reader, space *room) error {
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	tr := tar.NewReader(plain)
	for first := true; ; first = false {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if first {
				return fmt.Errorf("%w: %w", ErrFormat, err)
			}
			return err
		}
		if err := a.file(h, tr, space); err != nil {
			return err
		}
	}
}

func (a archive) file(h *tar.Header, body io.Reader, space *room) error {
	if err := space.entry(); err != nil {
		return err
	}
	to := a.path(h.Name)
	switch h.Typeflag {
	case tar.TypeReg:
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(space.limit(f), body)
		return errors.Join(err, f.Close())
	case tar.TypeSymlink, tar.TypeLink:
		// Old docker save links a layer that an earlier image of the archive has too.
		from := a.path(h.Linkname)
		if h.Typeflag == tar.TypeSymlink {
			from = a.path(path.Join(path.Dir(path.Clean("/"+h.Name)), h.Linkname))
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.Link(from, to)
	}
	return nil
}

// has says whether the archive has a file.
func (a archive) has(name string) bool {
	_, err := os.Stat(a.path(name))
	return err == nil
}

func (a archive) path(name string) string {
	return filepath.Join(a.dir, filepath.FromSlash(path.Clean("/"+name)))
}

// missing says that an archive lacks a file that it names.
type missing struct{ name string }

func (m missing) Error() string {
	return "the archive is not complete: it names " + m.name + ", which is not in it"
}

// open opens a file that the archive names.
func (a archive) open(name string) (*os.File, error) {
	f, err := os.Open(a.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, missing{name}
	}
	return f, err
}

// errNone says that an archive is well formed and holds nothing.
var errNone = errors.New("the archive holds no image")

func (a archive) json(name string, into any) error {
	f, err := a.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// importDocker stores the images of a docker save archive. Its layers are
// plain archives; they are kept so, for nothing is gained by compressing them.
func (s *Store) importDocker(a archive) ([]Image, error) {
	var list []saved
	if err := a.json("manifest.json", &list); err != nil {
		return nil, err
	}
	var images []Image
	for _, m := range list {
		img, err := s.importSaved(a, m)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

func (s *Store) importSaved(a archive, m saved) (Image, error) {
	var names []string
	for _, t := range m.RepoTags {
		n, err := Normalize(t)
		if err != nil {
			return Image{}, err
		}
		names = append(names, n)
	}
	var c v1.ConfigFile
	if err := a.json(m.Config, &c); err != nil {
		return Image{}, err
	}
	man := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	// The configuration is stored byte for byte: its digest is the image's ID.
	var err error
	man.Config, err = s.importFile(a, m.Config, types.OCIConfigJSON)
	if err != nil {
		return Image{}, err
	}
	for _, l := range m.Layers {
		d, err := s.importFile(a, l, types.OCIUncompressedLayer)
		if err != nil {
			return Image{}, err
		}
		man.Layers = append(man.Layers, d)
	}
	digest, size, err := s.putJSON(man)
	if err != nil {
		return Image{}, err
	}
	return s.admit(v1.Descriptor{MediaType: man.MediaType, Digest: digest, Size: size}, names...)
}

func (s *Store) importFile(a archive, name string, mt types.MediaType) (v1.Descriptor, error) {
	f, err := a.open(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	h, n, err := s.putBlob(f)
	return v1.Descriptor{MediaType: mt, Digest: h, Size: n}, err
}

// importOCI stores the images of an OCI layout, for this machine's platform
// where there are several.
func (s *Store) importOCI(a archive) ([]Image, error) {
	var idx v1.IndexManifest
	if err := a.json("index.json", &idx); err != nil {
		return nil, err
	}
	var images []Image
	for _, d := range idx.Manifests {
		var names []string
		if n := d.Annotations["io.containerd.image.name"]; n != "" {
			names = append(names, n)
		} else if n := d.Annotations[refAnnotation]; n != "" {
			names = append(names, n)
		}
		for i, n := range names {
			norm, err := Normalize(n)
			if err != nil {
				return nil, err
			}
			names[i] = norm
		}
		img, err := s.importDescriptor(a, d, names)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

func (s *Store) importDescriptor(a archive, d v1.Descriptor, names []string) (Image, error) {
	name := blobName(d.Digest)
	if d.MediaType.IsIndex() {
		var idx v1.IndexManifest
		if err := a.json(name, &idx); err != nil {
			return Image{}, err
		}
		d, ok := choose(idx.Manifests)
		if !ok {
			return Image{}, fmt.Errorf("no image for linux/%s in index %s", runtime.GOARCH, name)
		}
		return s.importDescriptor(a, d, names)
	}
	var m v1.Manifest
	if err := a.json(name, &m); err != nil {
		return Image{}, err
	}
	for _, part := range append([]v1.Descriptor{d, m.Config}, m.Layers...) {
		got, err := s.importFile(a, blobName(part.Digest), part.MediaType)
		if err != nil {
			return Image{}, err
		}
		if got.Digest != part.Digest {
			return Image{}, fmt.Errorf("blob %s has digest %s", part.Digest, got.Digest)
		}
	}
	return s.admit(v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, names...)
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// choose picks the manifest for this machine out of an index.
func choose(list []v1.Descriptor) (v1.Descriptor, bool) {
	for _, d := range list {
		if p := d.Platform; p == nil || p.OS == "linux" && p.Architecture == runtime.GOARCH {
			return d, true
		}
	}
	return v1.Descriptor{}, false
}
