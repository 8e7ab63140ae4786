package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
	"coracle/internal/filetree/scratch"
	"coracle/internal/runtime/overlay"
)

func TestNormalize(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string]string{
		"counter": "docker.io/library/counter:latest", "kahootali/counter:1.1": "docker.io/kahootali/counter:1.1",
		"docker.io/kahootali/counter:1.1": "docker.io/kahootali/counter:1.1", "localhost:5000/a/b": "localhost:5000/a/b:latest",
		"index.docker.io/library/x:1": "docker.io/library/x:1", "quay.io/x/y@" + digest: "quay.io/x/y@" + digest, "": "", "UPPER:1": "", "a b": "",
		"../../x:1": "", "..": "", "a/../b": "", "localhost:5000/../x": "", "quay.io/./x": "", "a//b": "", "quay.io/x/..:1": "", "-a/b": "", "a/.b": "",
		"a/b..c": "", "reg..io/x/y": "", "-reg.io/x/y": "", "[::1]:5000/a/b:1": "[::1]:5000/a/b:1", "a/b__c-d---e.f:1": "docker.io/a/b__c-d---e.f:1",
	} {
		got, err := Normalize(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Normalize(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func open(t testing.TB) *Store {
	t.Helper()
	return openAt(t, scratch.Dir(t))
}

func openAt(t testing.TB, dir string) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("layers are unpacked with their owners: needs root")
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// file is an entry of a test layer.
type file struct {
	name, body, link string
	kind             byte
	mode             int64
	uid              int
	xattr            string
}

func layerOf(t testing.TB, compress bool, files ...file) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser = nopCloser{&buf}
	if compress {
		w = gzip.NewWriter(&buf)
	}
	tw := tar.NewWriter(w)
	for _, f := range files {
		h := &tar.Header{
			Name: f.name, Typeflag: f.kind, Mode: f.mode, Uid: f.uid, Gid: f.uid, Linkname: f.link,
			Size: int64(len(f.body)), ModTime: time.Unix(1_000_000_000, 0), Format: tar.FormatPAX,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if f.xattr != "" {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.test": f.xattr}
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// tarOf makes a plain archive.
func tarOf(t testing.TB, files ...file) io.Reader {
	t.Helper()
	r, err := layerOf(t, false, files...).Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func imageOf(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/run"}, Env: []string{"A=b"}, User: "7"})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// saved writes an image as docker save does.
func dockerSave(t testing.TB, ref string, img v1.Image) *bytes.Buffer {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := tarball.Write(tag, img, &buf); err != nil {
		t.Fatal(err)
	}
	return &buf
}

// merged shows an image's layers as a container would see them: path, mode,
// owner, content or link, sorted.
func merged(t testing.TB, s *Store, img Image) []string {
	t.Helper()
	owner := scratch.Dir(t)
	layers, err := s.Acquire(img, filepath.Base(owner)+filepath.Base(filepath.Dir(owner)), owner)
	if err != nil {
		t.Fatal(err)
	}
	root := layers[0]
	if len(layers) > 1 {
		root = filepath.Join(owner, "merged")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := (overlay.Stack{Lower: layers}).Mount(root); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(root, unix.MNT_DETACH)
	}
	var list []string
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d", strings.TrimPrefix(path, root), st.Mode, st.Uid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(raw)
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			line += " -> " + to
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestImportLayers(t *testing.T) {
	s := open(t)
	base := layerOf(t, true,
		file{name: "./", kind: tar.TypeDir, mode: 0o755},
		file{name: "etc/", kind: tar.TypeDir, mode: 0o750, uid: 5},
		file{name: "etc/gone", body: "x"}, file{name: "etc/kept", body: "k", uid: 9},
		file{name: "opaque/", kind: tar.TypeDir, mode: 0o755}, file{name: "opaque/old", body: "o"},
		file{name: "bin/su", body: "s", mode: 0o4755}, file{name: "bin/su2", kind: tar.TypeLink, link: "bin/su"},
		file{name: "lib", kind: tar.TypeSymlink, link: "/usr/lib"}, file{name: "usr/lib/", kind: tar.TypeDir, mode: 0o755},
		file{name: "lib/inner", body: "i"}, // through an absolute link: inside
		file{name: "dir/a", body: "a"}, file{name: "pipe", kind: tar.TypeFifo, mode: 0o600},
	)
	top := layerOf(t, false,
		file{name: "etc/.wh.gone"}, file{name: "etc/new", body: "n"}, // etc itself is not mentioned: keeps mode and owner
		file{name: "opaque/new", body: "n"}, file{name: "opaque/.wh..wh..opq"},
		file{name: "bin/su3", kind: tar.TypeLink, link: "/bin/su"}, // a link to a lower layer's file
		file{name: "dir", kind: tar.TypeSymlink, link: "etc"},      // a link where a directory was
		file{name: "../../escape", body: "e"}, file{name: "etc/kept", body: "K", mode: 0o600},
	)
	img := imageOf(t, base, top)
	images, err := s.Import(dockerSave(t, "kahootali/counter:1.1", img))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/bin 40755 0", "/bin/su 104755 0 s", "/bin/su2 104755 0 s", "/bin/su3 104755 0 s",
		"/dir 120777 0 -> etc", "/escape 100644 0 e",
		"/etc 40750 5", "/etc/kept 100600 0 K", "/etc/new 100644 0 n",
		"/lib 120777 0 -> /usr/lib", "/opaque 40755 0", "/opaque/new 100644 0 n", "/pipe 10600 0",
		"/usr 40755 0", "/usr/lib 40755 0", "/usr/lib/inner 100644 0 i",
	}
	if diff := cmp.Diff(want, merged(t, s, images[0])); diff != "" {
		t.Errorf("merged layers (-want +got):\n%s", diff)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	got := images[0]
	if got.ID != id.String() || !slices.Equal(got.Names, []string{"docker.io/kahootali/counter:1.1"}) || got.Config.User != "7" {
		t.Errorf("image: %+v, want ID %s", got, id)
	}
	for _, ref := range []string{"kahootali/counter:1.1", id.String(), id.Hex[:12], got.Digest, got.RepoDigests[0]} {
		if i, err := s.Get(ref); err != nil || i.ID != got.ID {
			t.Errorf("Get(%q): %v", ref, err)
		}
	}
	if _, err := s.Get("kahootali/counter"); !errors.Is(err, ErrNotFound) {
		t.Errorf("another tag: %v", err)
	}
}

// TestStoreOfAnyName: the store's directory may be called what means something to overlayfs.
func TestStoreOfAnyName(t *testing.T) {
	for name, layers := range map[string]int{"a:b,c d": 2, `a\b`: 2, `a\:b\,c=d`: 2, strings.Repeat("l", 250): 15} {
		t.Run(fmt.Sprintf("%.10q", name), func(t *testing.T) {
			s := openAt(t, filepath.Join(scratch.Dir(t), name))
			var list []v1.Layer
			for i := range layers {
				list = append(list, layerOf(t, false, file{name: "top", body: fmt.Sprint(i)}, file{name: fmt.Sprintf(".wh.f%d", i-1)},
					file{name: fmt.Sprintf("f%d", i)}))
			}
			images, err := s.Import(dockerSave(t, "many:1", imageOf(t, list...)))
			if err != nil {
				t.Fatal(err)
			}
			want := []string{fmt.Sprintf("/f%d 100644 0 ", layers-1), fmt.Sprintf("/top 100644 0 %d", layers-1)}
			if diff := cmp.Diff(want, merged(t, s, images[0])); diff != "" {
				t.Errorf("merged layers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLayerFiles(t *testing.T) {
	s := open(t)
	images, err := s.Import(dockerSave(t, "x:1", imageOf(t, layerOf(t, false,
		file{name: "a", body: "a", xattr: "v"}, file{name: "b", kind: tar.TypeLink, link: "a"}, file{name: "d/", kind: tar.TypeDir, mode: 0o700}, file{name: "d/c"},
	))))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := s.Acquire(images[0], "c", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var a, b, d unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{"a": &a, "b": &b, "d": &d} {
		if err := unix.Stat(filepath.Join(layers[0], name), st); err != nil {
			t.Fatal(err)
		}
	}
	if a.Ino != b.Ino {
		t.Error("the hard link is a copy")
	}
	if a.Mtim.Sec != 1_000_000_000 || d.Mtim.Sec != 1_000_000_000 {
		t.Errorf("times: file %d, directory %d", a.Mtim.Sec, d.Mtim.Sec)
	}
	v := make([]byte, 10)
	if n, err := unix.Getxattr(filepath.Join(layers[0], "a"), "user.test", v); err != nil || string(v[:n]) != "v" {
		t.Errorf("attribute: %q %v", v[:max(n, 0)], err)
	}
}

func TestHostileLayers(t *testing.T) {
	for name, files := range map[string][]file{
		"through a link out":    {{name: "out", kind: tar.TypeSymlink, link: "../../../../../../tmp/coracle-hostile"}, {name: "out/file", body: "x"}},
		"below a dangling link": {{name: "out", kind: tar.TypeSymlink, link: "/nowhere/at/all"}, {name: "out/file", body: "x"}},
		"name that climbs":      {{name: "../../../../../../../../tmp/coracle-hostile", body: "x"}},
		"name that climbs in":   {{name: "a/../../../../../../../../tmp/coracle-hostile", body: "x"}},
		"absolute name":         {{name: "/../tmp/coracle-hostile", body: "x"}},
		"link to the outside":   {{name: "tmp", kind: tar.TypeSymlink, link: "../../../../../../../../tmp"}, {name: "tmp/coracle-hostile", body: "x"}},
		"through /proc":         {{name: "out", kind: tar.TypeSymlink, link: "/proc/self/root/tmp"}, {name: "out/coracle-hostile", body: "x"}},
		"hard link out":         {{name: "h", kind: tar.TypeLink, link: "../../../../../etc/passwd"}},
		"whiteout of parent":    {{name: "a/.wh...", body: ""}},
		"unknown type":          {{name: "x", kind: 'Z'}},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			_, err := s.Import(dockerSave(t, "x:1", imageOf(t, layerOf(t, false, files...))))
			inside := slices.Contains([]string{"through a link out", "name that climbs", "name that climbs in", "absolute name", "link to the outside"}, name)
			if !inside && err == nil {
				t.Error("was accepted")
			}
			if err != nil && strings.Contains(err.Error(), "not complete") {
				t.Errorf("another cause is told: %v", err)
			}
			if name == "below a dangling link" && (err == nil || !strings.Contains(err.Error(), "/out is a symbolic link")) {
				t.Errorf("the cause is not told: %v", err)
			}
			if _, err := os.Stat("/tmp/coracle-hostile"); err == nil {
				t.Error("wrote outside")
			}
			if list, err := s.List(); err == nil && !inside && len(list) != 0 {
				t.Errorf("listed: %v", list)
			}
		})
	}
}

func TestImportForms(t *testing.T) {
	s := open(t)
	img := imageOf(t, layerOf(t, true, file{name: "run", body: "r", mode: 0o755}))
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{refAnnotation: "quay.io/a/b:2"})); err != nil {
		t.Fatal(err)
	}
	images, err := s.ImportLayout(dir)
	if err != nil || len(images) != 1 || images[0].Names[0] != "quay.io/a/b:2" {
		t.Fatalf("layout: %v %v", images, err)
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	tw := tar.NewWriter(z)
	if err := errors.Join(tw.AddFS(os.DirFS(dir)), tw.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := s.Import(&buf)
	if err != nil || again[0].ID != images[0].ID || again[0].Digest != images[0].Digest {
		t.Errorf("tar of the layout: %v %v", again, err)
	}
	if _, err := s.Import(strings.NewReader("no archive at all, but long enough to be looked at closely by a reader")); !errors.Is(err, ErrFormat) {
		t.Errorf("no archive: %v", err)
	}
	var other bytes.Buffer
	tw = tar.NewWriter(&other)
	_ = tw.WriteHeader(&tar.Header{Name: "hello", Size: 0, Mode: 0o644})
	tw.Close()
	if _, err := s.Import(&other); !errors.Is(err, ErrFormat) {
		t.Errorf("another archive: %v", err)
	}
	for _, x := range []struct {
		want  string
		files []file
	}{
		{"holds no image", []file{{name: "manifest.json", body: "[]"}}},
		{"holds no image", []file{{name: "manifest.json", body: "null"}, {name: "index.json", body: `{"manifests":[]}`}}},
		{"holds no image", []file{{name: "index.json", body: `{"schemaVersion":2,"manifests":[]}`}}},
		{"not complete: it names none.json", []file{{name: "manifest.json", body: `[{"Config":"none.json"}]`}}},
		{"not complete", []file{{name: "manifest.json", body: `[{"Config":"../../../../../../../../etc/passwd"}]`}}},
		{"no such file", []file{{name: "manifest.json", body: `[{"Config":"c","Layers":["c"]}]`}, {name: "c", kind: tar.TypeSymlink, link: "../../../../../../../../../etc/passwd"}}},
		{"", []file{{name: "index.json", body: `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:../../../../../../../../etc/passwd"}]}`}}},
		{"", []file{{name: "../../../../../../../../../tmp/coracle-hostile", body: "x"}, {name: "index.json", body: `{"manifests":[]}`}}},
		{"not complete: it names layer.tar", []file{{name: "manifest.json", body: `[{"Config":"c.json","Layers":["layer.tar"]}]`}, {name: "c.json", body: "{}"}}},
	} {
		if _, err := s.Import(tarOf(t, x.files...)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("an archive that %s: %v", x.want, err)
		} else if strings.Contains(err.Error(), "root:") {
			t.Errorf("tells of the node's file: %v", err)
		}
	}
	if _, err := os.Stat("/tmp/coracle-hostile"); err == nil {
		t.Error("an archive was spread outside")
	}
	// What is stored is itself a layout that others can read.
	if _, err := layout.ImageIndexFromPath(s.Dir()); err != nil {
		t.Errorf("the store is no layout: %v", err)
	}
}

// TestCorruptLayerIsRefused puts another layer in the place of the one that an image's configuration names, and takes
// nothing of it; with the right one the same archive is taken.
func TestCorruptLayerIsRefused(t *testing.T) {
	save := func(text string) map[string]string {
		tr, files := tar.NewReader(dockerSave(t, "x:1", imageOf(t, layerOf(t, false, file{name: "run", body: text})))), map[string]string{}
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return files
			}
			body, errRead := io.ReadAll(tr)
			if err := errors.Join(err, errRead); err != nil {
				t.Fatal(err)
			}
			files[h.Name] = string(body)
		}
	}
	layer := func(files map[string]string) (name string) {
		for n := range files {
			if strings.Contains(n, ".tar") {
				name = n
			}
		}
		return name
	}
	good, bad := save("CONTENT"), save("CHANGED")
	for _, corrupt := range []bool{true, false} {
		s, files := open(t), maps.Clone(good)
		if corrupt {
			files[layer(good)] = bad[layer(bad)]
		}
		var list []file
		for name, body := range files {
			list = append(list, file{name: name, body: body})
		}
		images, err := s.Import(tarOf(t, list...))
		if (err != nil) != corrupt {
			t.Errorf("corrupt %t: %v, %v", corrupt, images, err)
		}
		if kept, err := s.List(); err != nil || (len(kept) == 0) != corrupt {
			t.Errorf("corrupt %t: %d images are kept, %v", corrupt, len(kept), err)
		}
	}
}

func TestBuild(t *testing.T) {
	s := open(t)
	bin := filepath.Join(t.TempDir(), "prog")
	src := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() { println(\"hi\") }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", bin, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a, err := s.Build("prog:1", bin, BuildOptions{Env: []string{"X=y"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Build("prog:2", bin, BuildOptions{Env: []string{"X=y"}})
	if err != nil || a.ID != b.ID || a.Digest != b.Digest {
		t.Errorf("building twice: %v %v %v", a, b, err)
	}
	if !slices.Equal(b.Names, []string{"docker.io/library/prog:1", "docker.io/library/prog:2"}) || !slices.Equal(b.Config.Entrypoint, []string{"/prog"}) {
		t.Errorf("image: %+v", b)
	}
	if got := merged(t, s, a); len(got) != 1 || !strings.HasPrefix(got[0], "/prog 100755 0") {
		t.Errorf("content: %d entries", len(got))
	}
	if _, err := s.Build("sh:1", "/bin/bash", BuildOptions{}); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("dynamic binary: %v", err)
	}
	if _, err := s.Build("sh:1", src, BuildOptions{}); err == nil {
		t.Error("a text file was accepted")
	}
	dir := t.TempDir()
	for _, f := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(f), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "uno")), os.Symlink("two", filepath.Join(dir, "due")), os.Chown(filepath.Join(dir, "two"), 5, 5)); err != nil {
		t.Fatal(err)
	}
	c, err := s.Build("dir:1", dir, BuildOptions{Cmd: []string{"one"}, User: "5:5"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/due 120777 0 -> two", "/one 100640 0 one", "/two 100640 0 two", "/uno 100640 0 one"}
	if diff := cmp.Diff(want, merged(t, s, c)); diff != "" {
		t.Errorf("directory (-want +got):\n%s", diff)
	}
}

func TestRemove(t *testing.T) {
	s := open(t)
	img := imageOf(t, layerOf(t, false, file{name: "run", body: "r"}))
	images, err := s.Import(dockerSave(t, "a:1", img))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag("a:1", "b:1"); err != nil {
		t.Fatal(err)
	}
	owner := t.TempDir()
	layers, err := s.Acquire(images[0], "ctr", owner)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("a:1"); err != nil { // one name of two
		t.Errorf("a name: %v", err)
	}
	if err := s.Remove("b:1"); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "ctr") {
		t.Errorf("the last name of an image in use: %v", err)
	}
	if err := s.Remove("a:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a name that is gone: %v", err)
	}
	// The owner's directory is thrown away: the lease is void.
	if err := filetree.Dismantle(owner); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(images[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(layers[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layer is left: %v", err)
	}
	for _, d := range []string{"blobs/sha256", "layers", "leases", "tmp"} {
		if left, err := os.ReadDir(filepath.Join(s.Dir(), d)); err != nil || len(left) != 0 {
			t.Errorf("%s: %v %v", d, left, err)
		}
	}
}

// TestNameMoves builds a name anew while a container uses what it meant.
func TestNameMoves(t *testing.T) {
	s := open(t)
	ver := func(body string) Image {
		t.Helper()
		images, err := s.Import(dockerSave(t, "app:1", imageOf(t, layerOf(t, false, file{name: "run", body: body}))))
		if err != nil {
			t.Fatal(err)
		}
		return images[0]
	}
	unused := ver("zero")
	used := ver("one")
	owner := t.TempDir()
	layers, err := s.Acquire(used, "ctr", owner)
	if err != nil {
		t.Fatal(err)
	}
	now := ver("two")
	if i, err := s.Get("app:1"); err != nil || i.ID != now.ID {
		t.Errorf("the name means %v %v", i.ID, err)
	}
	if i, err := s.Get(used.ID); err != nil || len(i.Names) != 0 {
		t.Errorf("the image in use: %v %v", i, err)
	}
	if _, err := s.Get(unused.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("the image nobody uses: %v", err)
	}
	if err := s.Prune(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(layers[0]); err != nil {
		t.Errorf("the layer in use: %v", err)
	}
	if err := s.Release("ctr"); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("left: %v %v", list, err)
	}
	if left, err := os.ReadDir(filepath.Join(s.Dir(), "layers")); err != nil || len(left) != 1 {
		t.Errorf("layers left: %v %v", left, err)
	}
}

func TestPull(t *testing.T) {
	s := open(t)
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	img := imageOf(t, layerOf(t, true, file{name: "run", body: "r"}))
	ref := host + "/team/app:1"
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
	got, err := s.Pull(context.Background(), ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := img.Digest()
	if got.Digest != digest.String() || got.Names[0] != ref || got.RepoDigests[0] != host+"/team/app@"+digest.String() {
		t.Errorf("pulled: %+v", got)
	}
	if by, err := s.Pull(context.Background(), got.RepoDigests[0], PullOptions{}); err != nil || by.ID != got.ID {
		t.Errorf("by digest: %v %v", by, err)
	}
	if _, err := s.Pull(context.Background(), host+"/team/none:1", PullOptions{}); err == nil {
		t.Error("an image that is not there was pulled")
	}
}

// TestManyAtOnce has several stores of one directory, as several processes
// have, import, list and remove at the same time.
func TestManyAtOnce(t *testing.T) {
	first := open(t)
	shared := layerOf(t, false, file{name: "base", body: "base"})
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			s, err := Open(first.Dir())
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 5 {
				img := imageOf(t, shared, layerOf(t, false, file{name: "own", body: fmt.Sprint(w, i%2)}))
				ref := fmt.Sprintf("img%d:%d", w, i)
				if _, err := s.Import(dockerSave(t, ref, img)); err != nil {
					t.Errorf("import %s: %v", ref, err)
				}
				if _, err := s.List(); err != nil {
					t.Errorf("list: %v", err)
				}
				if i%2 == 1 {
					if err := s.Remove(ref); err != nil {
						t.Errorf("remove %s: %v", ref, err)
					}
				}
			}
		})
	}
	all.Wait()
	list, err := first.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Names...)
		if got := merged(t, first, i); len(got) != 2 {
			t.Errorf("%v: %v", i.Names, got)
		}
	}
	if len(names) != 12 {
		t.Errorf("names: %v", names)
	}
	raw, err := os.ReadFile(filepath.Join(first.Dir(), "index.json"))
	if err != nil || !json.Valid(raw) {
		t.Errorf("index: %v", err)
	}
}
