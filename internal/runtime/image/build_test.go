package image

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestBuildFromLinks: a link that is given is followed, to a directory, a binary and through other links; what is linked
// inside stays a link.
func TestBuildFromLinks(t *testing.T) {
	s, dir := open(t), t.TempDir()
	root := filepath.Join(dir, "root")
	link := func(to, name string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "etc"), 0o755), os.WriteFile(filepath.Join(root, "etc/f"), []byte("f"), 0o644),
		os.Symlink("etc", filepath.Join(root, "alias"))); err != nil {
		t.Fatal(err)
	}
	plain, err := s.Build("a:1", root, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	once := link("root", "once")
	for i, path := range []string{once, once + "/", link(once, "twice"), link(dir, "up") + "/root", root + "/", once + "/."} {
		img, err := s.Build(fmt.Sprintf("b%d:1", i), path, BuildOptions{})
		if err != nil || img.Digest != plain.Digest {
			t.Errorf("%s: %v %v, want %v", path, img.Digest, err, plain.Digest)
		}
	}
	inner, err := s.Build("c:1", filepath.Join(root, "alias"), BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := merged(t, s, inner); !slices.Equal(got, []string{"/f 100644 0 f"}) {
		t.Errorf("a link inside: %v", got)
	}
	if _, err := s.Build("d:1", link("nowhere", "broken"), BuildOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a link to nothing: %v", err)
	}
}

// TestGivenNames: whoever builds or imports hears of the names that he gave, not of others that the content has.
func TestGivenNames(t *testing.T) {
	s, dir := open(t), t.TempDir()
	for _, name := range []string{"a:1", "b:1", "a:1"} {
		img, err := s.Build(name, dir, BuildOptions{})
		if want := []string{"docker.io/library/" + name}; err != nil || !slices.Equal(img.Given, want) {
			t.Errorf("build %s: %v %v", name, img.Given, err)
		}
	}
	content := imageOf(t, layerOf(t, false, file{name: "run", body: "r"}))
	for _, name := range []string{"a:2", "b:2"} {
		images, err := s.Import(dockerSave(t, name, content))
		if err != nil || len(images) != 1 || len(images[0].Given) != 1 || !strings.HasSuffix(images[0].Given[0], "/"+name) {
			t.Errorf("import %s: %v %v", name, images, err)
		}
	}
}

// TestLayersAreKeptOnce: built, imported and pulled images have their layers unpacked, and no archives beside them; what
// earlier versions kept goes with the next image.
func TestLayersAreKeptOnce(t *testing.T) {
	s, dir := open(t), t.TempDir()
	server := httptest.NewServer(registry.New())
	defer server.Close()
	noise := func(seed byte) string { return strings.Repeat(string([]byte{seed, 1, 2, 3}), 300_000) }
	kept := func(when string) {
		t.Helper()
		list, err := os.ReadDir(filepath.Join(s.Dir(), "blobs/sha256"))
		if err != nil {
			t.Fatal(err)
		}
		images, err := s.List()
		if err != nil || len(list) != 2*len(images) {
			t.Errorf("%s: %d blobs of %d images, want a manifest and a configuration of each (%v)", when, len(list), len(images), err)
		}
		for _, e := range list {
			if st, err := e.Info(); err != nil || st.Size() > 10_000 {
				t.Errorf("%s: blob %s of %d bytes is kept (%v)", when, e.Name(), st.Size(), err)
			}
		}
		for _, d := range images {
			if len(merged(t, s, d)) == 0 {
				t.Errorf("%s: %v is empty", when, d.Names)
			}
		}
		if left, err := os.ReadDir(filepath.Join(s.Dir(), "tmp")); err != nil || len(left) != 0 {
			t.Errorf("%s: left in tmp: %v %v", when, left, err)
		}
	}
	old := filepath.Join(s.Dir(), "blobs/sha256", strings.Repeat("0", 64))
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "f"), []byte(noise('a')), 0o644), os.WriteFile(old, []byte(noise('z')), 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Build("built:1", dir, BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	kept("built")
	below, above := layerOf(t, false, file{name: "below", body: noise('b')}), layerOf(t, true, file{name: "above", body: noise('c')})
	if _, err := s.Import(dockerSave(t, "imported:1", imageOf(t, below, above))); err != nil {
		t.Fatal(err)
	}
	kept("imported")
	// A layer that is unpacked on other parents is wanted again.
	other := imageOf(t, above, below)
	r, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/x:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, other); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Pull(t.Context(), r.String(), PullOptions{}); err != nil {
			t.Fatal(err)
		}
		kept("pulled")
	}
	if err := s.Prune(); err != nil {
		t.Fatal(err)
	}
	kept("collected")
}
