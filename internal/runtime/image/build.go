package image

import (
	"archive/tar"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// BuildOptions become the image's configuration. The zero value is right for
// a static binary, which then is the entry point.
type BuildOptions struct {
	// Entrypoint and Cmd as in the OCI image configuration.
	Entrypoint, Cmd []string
	// Env are "NAME=value" pairs; PATH is set when it is not among them.
	Env        []string
	WorkingDir string
	// User is "user", "uid", "user:group" or "uid:gid".
	User       string
	StopSignal string
	// Volumes are the paths declared as volumes.
	Volumes []string
	Labels  map[string]string
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Build makes an image of one layer from a static binary or from a directory
// that holds a root file system, and names it. The same input gives the same
// digest. A dynamically linked binary is refused, because nothing in the
// image could load it.
func (s *Store) Build(name, path string, opts BuildOptions) (Image, error) {
	norm, err := Normalize(name)
	if err != nil {
		return Image{}, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	root := path
	if st.IsDir() {
		// A link that is given is followed, as one given to docker build is; below it links are what the image has.
		if root, err = filepath.EvalSymlinks(path); err != nil {
			return Image{}, fmt.Errorf("build image: %w", err)
		}
	} else {
		if err := checkStatic(path); err != nil {
			return Image{}, err
		}
		if len(opts.Entrypoint) == 0 {
			opts.Entrypoint = []string{"/" + filepath.Base(path)}
		}
	}
	defer s.settle()
	unlock, err := s.lock(contentLock, unix.LOCK_SH)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	layer, size, err := s.unpackMade(func(w io.Writer) error { return pack(w, root, st) })
	if err != nil {
		return Image{}, fmt.Errorf("build image from %s: %w", path, err)
	}
	return s.finish(opts.config(layer), []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Digest: layer, Size: size}}, norm)
}

func (o BuildOptions) config(layer v1.Hash) *v1.ConfigFile {
	env := o.Env
	var volumes map[string]struct{}
	for _, v := range o.Volumes {
		if volumes == nil {
			volumes = map[string]struct{}{}
		}
		volumes[v] = struct{}{}
	}
	if !hasPath(env) {
		env = append([]string{defaultPath}, env...)
	}
	return &v1.ConfigFile{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer}},
		Config: v1.Config{
			Entrypoint: o.Entrypoint, Cmd: o.Cmd, Env: env, WorkingDir: o.WorkingDir,
			User: o.User, Volumes: volumes, StopSignal: o.StopSignal, Labels: o.Labels,
		},
	}
}

func hasPath(env []string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, "PATH=") {
			return true
		}
	}
	return false
}

// finish stores configuration and manifest, unpacks the layers and names the
// image. The content lock is held shared.
func (s *Store) finish(c *v1.ConfigFile, layers []v1.Descriptor, names ...string) (Image, error) {
	cfg, size, err := s.putJSON(c)
	if err != nil {
		return Image{}, err
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: layers,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: cfg, Size: size},
	}
	digest, size, err := s.putJSON(m)
	if err != nil {
		return Image{}, err
	}
	return s.admit(v1.Descriptor{MediaType: m.MediaType, Digest: digest, Size: size}, names...)
}

// admit unpacks an image whose blobs are all here, then names it.
func (s *Store) admit(desc v1.Descriptor, names ...string) (Image, error) {
	in, err := s.info(desc.Digest)
	if err != nil {
		return Image{}, err
	}
	if err := s.unpack(in); err != nil {
		return Image{}, err
	}
	if err := s.tag(desc, names...); err != nil {
		return Image{}, err
	}
	img, err := s.Get(desc.Digest.String())
	img.Given = names
	return img, err
}

func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("build image: %s is neither a directory nor an ELF binary: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("build image: %s is dynamically linked: build it with CGO_ENABLED=0, or give a directory that holds its libraries too", path)
		}
	}
	return nil
}

// pack writes a layer archive of a file or a directory. Everything belongs
// to root and is dated 1970, so that equal content has equal digests.
func pack(w io.Writer, path string, st fs.FileInfo) error {
	tw := tar.NewWriter(w)
	if st.IsDir() {
		p := packer{tw: tw, root: path, links: map[uint64]string{}}
		if err := filepath.WalkDir(path, p.entry); err != nil {
			return err
		}
		return tw.Close()
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: filepath.Base(path), Mode: 0o755, Size: st.Size(), ModTime: time.Unix(0, 0)}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if err := copyFile(tw, path); err != nil {
		return err
	}
	return tw.Close()
}

type packer struct {
	tw    *tar.Writer
	root  string
	links map[uint64]string
}

func (p *packer) entry(path string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(p.root, path)
	if err != nil || rel == "." {
		return err
	}
	st, err := d.Info()
	if err != nil {
		return err
	}
	target := ""
	if st.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	if st.Mode()&fs.ModeSocket != 0 {
		return nil // a socket is nothing without its process
	}
	h, err := tar.FileInfoHeader(st, target)
	if err != nil {
		return err
	}
	h.Name = filepath.ToSlash(rel)
	if st.IsDir() {
		h.Name += "/"
	}
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	h.ModTime, h.AccessTime, h.ChangeTime = time.Unix(0, 0), time.Time{}, time.Time{}
	h.Format = tar.FormatPAX
	if first := p.hardLink(path, h); first != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
	}
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		return copyFile(p.tw, path)
	}
	return nil
}

// hardLink returns the name under which a file's content is already in the
// archive, or "" and remembers it.
func (p *packer) hardLink(path string, h *tar.Header) string {
	var st unix.Stat_t
	if h.Typeflag != tar.TypeReg || unix.Lstat(path, &st) != nil || st.Nlink < 2 {
		return ""
	}
	if first, ok := p.links[st.Ino]; ok {
		return first
	}
	p.links[st.Ino] = h.Name
	return ""
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
