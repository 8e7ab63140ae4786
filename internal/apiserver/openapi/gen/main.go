// Command gen makes ../definitions.json.gz: the OpenAPI models of the types served.
//
// It runs openapi-gen of k8s.io/kube-openapi over the packages below into a throw-away package,
// runs that package to print the models, and keeps the document, compressed. The Go code of
// openapi-gen itself would cost every start several milliseconds of initialisation and a
// megabyte of heap; the document costs nothing until somebody asks for a schema.
package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Packages whose types are described.
var packages = []string{
	"k8s.io/api/apps/v1",
	"k8s.io/api/authentication/v1",
	"k8s.io/api/authorization/v1",
	"k8s.io/api/autoscaling/v1",
	"k8s.io/api/coordination/v1",
	"k8s.io/api/core/v1",
	"k8s.io/api/discovery/v1",
	"k8s.io/api/events/v1",
	"k8s.io/api/networking/v1",
	"k8s.io/api/node/v1",
	"k8s.io/api/policy/v1",
	"k8s.io/api/rbac/v1",
	"k8s.io/api/scheduling/v1",
	"k8s.io/api/storage/v1",
	"k8s.io/apimachinery/pkg/api/resource",
	"k8s.io/apimachinery/pkg/apis/meta/v1",
	"k8s.io/apimachinery/pkg/runtime",
	"k8s.io/apimachinery/pkg/util/intstr",
	"k8s.io/apimachinery/pkg/version",
}

// printer is the program that prints the models of the generated package.
const printer = `package main

import (
	"encoding/json"
	"os"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	generated "coracle/internal/apiserver/openapi/gen/%s/models"
)

type model struct {
	Schema       spec.Schema  ` + "`json:\"schema\"`" + `
	V2           *spec.Schema ` + "`json:\"v2,omitempty\"`" + `
	Dependencies []string     ` + "`json:\"deps,omitempty\"`" + `
}

func main() {
	ref := func(name string) spec.Ref { return spec.MustCreateRef("#/definitions/" + common.EscapeJsonPointer(name)) }
	out := map[string]model{}
	for name, d := range generated.GetOpenAPIDefinitions(ref) {
		m := model{Schema: d.Schema, Dependencies: d.Dependencies}
		if v2, ok := d.Schema.Extensions[common.ExtensionV2Schema].(spec.Schema); ok {
			m.V2 = &v2
			delete(m.Schema.Extensions, common.ExtensionV2Schema)
		}
		out[name] = m
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
}
`

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("gen", "tmp")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	models := filepath.Join(dir, "models")
	if err := os.Mkdir(models, 0o755); err != nil {
		return err
	}
	header := filepath.Join(dir, "header.txt")
	if err := os.WriteFile(header, nil, 0o644); err != nil {
		return err
	}
	modules, err := ownModules(dir)
	if err != nil {
		return err
	}
	args := []string{
		"run", "-mod=mod", "-modfile", modules, "k8s.io/kube-openapi/cmd/openapi-gen",
		"--go-header-file", header, "--output-dir", models, "--output-file", "models.go",
		"--output-pkg", "coracle/internal/apiserver/openapi/gen/" + filepath.Base(dir) + "/models",
		"--report-filename", filepath.Join(dir, "report.txt"),
	}
	if _, err := output("go", append(args, packages...)...); err != nil {
		return err
	}
	main := filepath.Join(dir, "main.go")
	if err := os.WriteFile(main, fmt.Appendf(nil, printer, filepath.Base(dir)), 0o644); err != nil {
		return err
	}
	document, err := output("go", "run", "./"+dir)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(document); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	fmt.Printf("%d bytes of models, %d compressed\n", len(document), packed.Len())
	return os.WriteFile("definitions.json.gz", packed.Bytes(), 0o644)
}

// ownModules copies the module's files into dir and returns the path of the copied go.mod: what only the generator needs
// is noted there and not in the product's.
func ownModules(dir string) (string, error) {
	found, err := output("go", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	root := filepath.Dir(string(bytes.TrimSpace(found)))
	dir = filepath.Join(dir, "modules") // not dir itself, which would become a module of its own
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return "", err
		}
	}
	return filepath.Abs(filepath.Join(dir, "go.mod"))
}

func output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %v: %w", name, args, err)
	}
	return out, nil
}
