package image

import (
	"context"
	"fmt"
	"net/http"
	"runtime"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
)

// PullOptions say how to reach a registry.
type PullOptions struct {
	// Auth is used as it is; the zero value is anonymous.
	Auth authn.AuthConfig
	// Insecure allows plain HTTP. Registries on loopback may always use it.
	Insecure bool
	// Transport replaces the default HTTP transport.
	Transport http.RoundTripper
}

// Pull fetches an image from its registry, for this machine's platform.
// Layers that are already here are not fetched.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (Image, error) {
	nameOpts := []name.Option{name.WeakValidation}
	if opts.Insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	r, err := name.ParseReference(ref, nameOpts...)
	if err != nil {
		return Image{}, fmt.Errorf("image reference %q is not valid: %w", ref, err)
	}
	ropts := []remote.Option{
		remote.WithContext(ctx), remote.WithAuth(authn.FromConfig(opts.Auth)),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		remote.WithUserAgent("coracle"),
	}
	if opts.Transport != nil {
		ropts = append(ropts, remote.WithTransport(opts.Transport))
	}
	img, err := remote.Image(r, ropts...)
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", ref, err)
	}
	defer s.settle()
	unlock, err := s.lock(contentLock, unix.LOCK_SH)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	desc, err := s.fetch(img)
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", ref, err)
	}
	return s.admit(desc, refName(r))
}

func (s *Store) fetch(img v1.Image) (v1.Descriptor, error) {
	m, err := img.Manifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	cfg, err := img.RawConfigFile()
	if err != nil {
		return v1.Descriptor{}, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return v1.Descriptor{}, err
	}
	chain := chainIDs(c.RootFS.DiffIDs)
	for i, d := range m.Layers {
		if i < len(chain) && s.unpacked(chain[i]) {
			continue
		}
		if err := s.fetchLayer(img, d); err != nil {
			return v1.Descriptor{}, err
		}
	}
	if err := s.putExact(cfg, m.Config.Digest); err != nil {
		return v1.Descriptor{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	if err := s.putExact(raw, digest); err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: m.MediaType, Digest: digest, Size: int64(len(raw))}, nil
}

func (s *Store) fetchLayer(img v1.Image, d v1.Descriptor) error {
	if s.hasBlob(d.Digest) {
		return nil
	}
	l, err := img.LayerByDigest(d.Digest)
	if err != nil {
		return err
	}
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	got, _, err := s.putBlob(rc)
	if err == nil && got != d.Digest {
		err = fmt.Errorf("layer %s arrived as %s", d.Digest, got)
	}
	return err
}

func (s *Store) putExact(raw []byte, want v1.Hash) error {
	w, err := s.newBlob()
	if err != nil {
		return err
	}
	defer w.abort()
	if _, err := w.Write(raw); err != nil {
		return err
	}
	got, err := w.commit()
	if err == nil && got != want {
		err = fmt.Errorf("blob %s arrived as %s", want, got)
	}
	return err
}
