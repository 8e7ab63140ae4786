// Package manifest reads what users would give to kubectl apply -f: files, folders, standard input.
//
// It owns the cutting of YAML and JSON into documents, and their names: file and place. It refuses to judge what is in
// them, but for what it takes to say whom a document is about.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"coracle/internal/kind"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// Document is one object of a file.
type Document struct {
	// From says where it is: "web.yaml, document 2".
	From string
	Ref  object.Ref
	// JSON is the document, with its namespace filled in.
	JSON []byte
}

// extensions are those that kubectl looks for in a folder.
var extensions = []string{".json", ".yaml", ".yml"}

// Read reads the documents of paths in order: files, folders (not those within), and "-" for stdin. Objects that name no
// namespace are in the one given.
func Read(paths []string, stdin io.Reader, namespace string) ([]Document, error) {
	var out []Document
	for _, path := range paths {
		files := []string{path}
		if path != "-" {
			var err error
			if files, err = filesOf(path); err != nil {
				return nil, err
			}
		}
		for _, file := range files {
			docs, err := readFile(file, stdin, namespace)
			if err != nil {
				return nil, err
			}
			out = append(out, docs...)
		}
	}
	if len(paths) > 0 && len(out) == 0 {
		return nil, fmt.Errorf("no objects in %s", strings.Join(paths, ", "))
	}
	return out, nil
}

func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the path %q does not exist", path)
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains(extensions, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no %s files in %s", strings.Join(extensions, ", "), path)
	}
	return files, nil
}

func readFile(file string, stdin io.Reader, namespace string) ([]Document, error) {
	name, in := file, stdin
	if file == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return Parse(name, in, namespace)
}

// Parse reads the documents of one file. Lists are taken apart.
func Parse(name string, in io.Reader, namespace string) ([]Document, error) {
	var out []Document
	reader := yaml.NewYAMLReader(bufio.NewReader(in))
	for n := 1; ; n++ {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		from := fmt.Sprintf("%s, document %d", name, n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		raw, err := sigsyaml.YAMLToJSON(text) // JSON is YAML too
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" {
			n--
			continue
		}
		docs, err := documents(from, raw, namespace)
		if err != nil {
			return nil, err
		}
		out = append(out, docs...)
	}
}

func documents(from string, raw []byte, namespace string) ([]Document, error) {
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(raw, &u.Object); err != nil {
		return nil, fmt.Errorf("%s: it is no object: %w", from, err)
	}
	if items, ok := u.Object["items"].([]any); ok && u.GetKind() == "List" {
		var out []Document
		for i, item := range items {
			raw, err := json.Marshal(item)
			if err != nil {
				return nil, fmt.Errorf("%s, item %d: %w", from, i+1, err)
			}
			docs, err := documents(fmt.Sprintf("%s, item %d", from, i+1), raw, namespace)
			if err != nil {
				return nil, err
			}
			out = append(out, docs...)
		}
		return out, nil
	}
	res, err := resourceOf(u)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	if u.GetName() == "" {
		return nil, fmt.Errorf("%s: metadata.name is missing: an apply needs it", from)
	}
	if res.Namespaced && u.GetNamespace() == "" {
		u.SetNamespace(namespace)
	}
	body, err := json.Marshal(u.Object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	ref := object.Ref{Resource: res, Key: object.Key{Name: u.GetName()}}
	if res.Namespaced {
		ref.Namespace = u.GetNamespace()
	}
	return []Document{{from, ref, body}}, nil
}

func resourceOf(u *unstructured.Unstructured) (resource.Resource, error) {
	gvk := u.GroupVersionKind()
	if gvk.Kind == "" || gvk.Version == "" {
		return resource.Resource{}, errors.New("apiVersion and kind are missing: it is no Kubernetes object")
	}
	for _, k := range kind.All() {
		if k.GVK() == gvk {
			return k.Resource, nil
		}
	}
	return resource.Resource{}, fmt.Errorf("no matches for kind %q in version %q", gvk.Kind, gvk.GroupVersion())
}
