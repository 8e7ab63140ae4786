package manifest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const several = `# only a comment
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
---

---
{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}}
`

func refs(docs []Document) (out []string) {
	for _, d := range docs {
		out = append(out, d.Ref.String())
	}
	return out
}

func TestParse(t *testing.T) {
	docs, err := Parse("several.yaml", strings.NewReader(several), "mine")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"configmaps mine/a", "deployments.apps shop/web", "namespaces shop", "poddisruptionbudgets.policy mine/b"}
	if d := cmp.Diff(want, refs(docs)); d != "" {
		t.Error(d)
	}
	if docs[3].From != "several.yaml, document 3, item 2" || !strings.Contains(string(docs[0].JSON), `"namespace":"mine"`) {
		t.Errorf("%q %s", docs[3].From, docs[0].JSON)
	}
}

func TestRefusals(t *testing.T) {
	for text, message := range map[string]string{
		"a: [":                                  "f, document 1: ",
		"just words":                            "f, document 1: it is no object",
		"a: b":                                  "f, document 1: apiVersion and kind are missing",
		"{apiVersion: v1, kind: Frog}":          `f, document 1: no matches for kind "Frog" in version "v1"`,
		"{apiVersion: v1, kind: Pod}":           "f, document 1: metadata.name is missing",
		"{apiVersion: batch/v1, kind: CronJob}": `in version "batch/v1"`,
	} {
		if _, err := Parse("f", strings.NewReader(text), "d"); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%q: %v, want %q", text, err, message)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	for name, object := range map[string]string{"b.yaml": "b", "a.yml": "a", "c.json": "c", "notes.txt": "no"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: "+object+"}}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	docs, err := Read([]string{"-", dir}, strings.NewReader("{apiVersion: v1, kind: ConfigMap, metadata: {name: first}}"), "d")
	if d := cmp.Diff([]string{"configmaps d/first", "configmaps d/a", "configmaps d/b", "configmaps d/c"}, refs(docs)); err != nil || d != "" {
		t.Error(err, d)
	}
	if _, err := Read([]string{filepath.Join(dir, "none")}, nil, "d"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Error(err)
	}
	if _, err := Read([]string{t.TempDir()}, nil, "d"); err == nil || !strings.Contains(err.Error(), "no .json, .yaml, .yml files") {
		t.Error(err)
	}
	if _, err := Read([]string{"-"}, strings.NewReader("---\n"), "d"); err == nil || !strings.Contains(err.Error(), "no objects in -") {
		t.Error(err)
	}
}
