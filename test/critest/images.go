package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The suite's images cannot be fetched everywhere; these stand for them, under their names. They
// are made of what Debian has: busybox-static, and procps and util-linux for two tools it lacks.

const (
	tools  = "gcr.io/k8s-staging-cri-tools/"
	shared = "registry.k8s.io/e2e-test-images/"
)

// file is a file of an image.
type file struct {
	path string
	mode int64
	data []byte
	link string // hard link to another of the image
}

// images are all stand-ins, by name.
func images(base string) (map[string]v1.Image, error) {
	root, err := busybox()
	if err != nil {
		return nil, err
	}
	base1, err := build(root, v1.Config{Cmd: []string{"sh"}})
	if err != nil {
		return nil, err
	}
	all := map[string]v1.Image{shared + "busybox:1.29-2": base1}
	add := func(name string, config v1.Config, files ...file) {
		if err == nil {
			all[name], err = build(append(slices.Clone(root), files...), config)
		}
	}
	page := file{path: "www/index.html", mode: 0o644, data: []byte("<html>It works!</html>\n")}
	// Specs look for a process of nginx's name, for its first process's title, and for its pid file.
	nginx := file{path: "bin/nginx", mode: 0o755, data: []byte("#!/bin/sh\necho httpd serves\necho $$ >/var/run/nginx.pid\nhttpd -f -p $1 -h /www\n")}
	serve := func(port string) v1.Config { return v1.Config{Cmd: []string{"/bin/nginx", port, "master process"}} }
	add(shared+"nginx:1.14-2", serve("80"), page, nginx)
	add(shared+"httpd:2.4.39-4", serve("80"), page, nginx)
	add(tools+"hostnet-nginx-amd64:latest", serve("12003"), page, nginx)
	add(tools+"hostnet-nginx-arm64:latest", serve("12003"), page, nginx)
	for _, name := range []string{"latest:latest", "tag:test", "tag:all", "1:latest", "2:latest", "3:latest"} {
		add(tools+"test-image-"+name, v1.Config{Cmd: []string{"sh"}}, file{path: name, mode: 0o644, data: []byte(name)})
	}
	add(tools+"test-image-tags:1", v1.Config{Cmd: []string{"sh"}}, file{path: "tags", mode: 0o644})
	all[tools+"test-image-tags:2"], all[tools+"test-image-tags:3"] = all[tools+"test-image-tags:1"], all[tools+"test-image-tags:1"]
	for name, user := range map[string]string{"uid": "1002", "username": "www-data", "uid-group": "1003:users", "username-group": "www-data:100"} {
		add(tools+"test-image-user-"+name+":latest", v1.Config{Cmd: []string{"sh"}, User: user})
	}
	add(tools+"test-image-predefined-group:latest", v1.Config{Cmd: []string{"sh"}, User: "1000"},
		file{path: "etc/passwd", mode: 0o644, data: []byte(accounts + "default-user:x:1000:1000::/home:/bin/sh\n")},
		file{path: "etc/group", mode: 0o644, data: []byte(groups + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")})
	add("registry.k8s.io/pause:3.9", v1.Config{Cmd: []string{"sleep", "1000000"}}, file{path: "pause", mode: 0o644})
	all["k8s.gcr.io/pause:3.9"] = all["registry.k8s.io/pause:3.9"]
	if err != nil {
		return nil, err
	}
	nnp, err := setUserID(base)
	if err != nil {
		return nil, err
	}
	add(shared+"nonewprivs:1.3", v1.Config{Cmd: []string{"/nnp"}}, file{path: "nnp", mode: 0o4755, data: nnp})
	return all, err
}

const (
	accounts = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
	groups   = "root:x:0:\nusers:x:100:\nwww-data:x:33:\nnogroup:x:65534:\n"
)

func busybox() ([]file, error) {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("busybox-static is needed: %w", err)
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox-static is needed: %w", err)
	}
	root := []file{
		{path: "bin/busybox", mode: 0o755, data: program},
		{path: "etc/passwd", mode: 0o644, data: []byte(accounts)}, {path: "etc/group", mode: 0o644, data: []byte(groups)},
	}
	lacking := []string{"pgrep", "ipcs"}
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			root = append(root, file{path: "bin/" + a, link: "bin/busybox"})
		}
		lacking = slices.DeleteFunc(lacking, func(l string) bool { return l == a })
	}
	for _, l := range lacking {
		files, err := hostProgram(l)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if !slices.ContainsFunc(root, func(have file) bool { return have.path == f.path }) {
				root = append(root, f)
			}
		}
	}
	return root, nil
}

// hostProgram is a program of this machine with the libraries it is linked with.
func hostProgram(name string) ([]file, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", path, err)
	}
	need := map[string]string{path: "bin/" + name}
	for _, word := range strings.Fields(string(out)) {
		if filepath.IsAbs(word) {
			need[word] = word[1:]
		}
	}
	var files []file
	for from, to := range need {
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: to, mode: 0o755, data: data})
	}
	return files, nil
}

// setUserID is a static program that says its effective user; its image makes it root's.
func setUserID(base string) ([]byte, error) {
	dir := filepath.Join(base, "nnp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	source := "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\nfunc main() { fmt.Printf(\"Effective uid: %d\\n\", os.Geteuid()) }\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "build", "-o", "nnp", "main.go")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the program of nonewprivs: %w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "nnp"))
}

// build makes an image of one layer. Of two files of one path the last counts.
func build(files []file, config v1.Config) (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, d := range []string{"bin/", "dev/", "etc/", "proc/", "sys/", "www/", "var/", "var/run/", "root/", "home/"} {
		if err := w.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
		return nil, err
	}
	for i, f := range files {
		if slices.ContainsFunc(files[i+1:], func(later file) bool { return later.path == f.path }) {
			continue
		}
		h := &tar.Header{Name: f.path, Typeflag: tar.TypeReg, Mode: f.mode, Size: int64(len(f.data))}
		if f.link != "" {
			h = &tar.Header{Name: f.path, Typeflag: tar.TypeLink, Linkname: f.link}
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	return mutate.Config(image, config)
}
