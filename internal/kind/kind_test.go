package kind

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/yaml"

	"coracle/internal/resource"
	"coracle/internal/scheme"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	// Objects with every field at random are large: fewer of them, unless told otherwise.
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	flag.Parse()
	clock = func() time.Time { return time.Unix(1700000000, 0) }
	os.Exit(m.Run())
}

// decode reads a manifest as the server does: strict types, defaults filled in, no TypeMeta.
func decode(t testing.TB, manifest string) (Kind, runtime.Object) {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatalf("%v\n%s", err, manifest)
	}
	obj, gvk, err := scheme.Codecs.UniversalDecoder().Decode(data, nil, nil)
	if err != nil {
		t.Fatalf("decode: %v\n%s", err, manifest)
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	for _, k := range All() {
		if k.GVK() == *gvk {
			return k, obj
		}
	}
	for _, k := range All() {
		for _, a := range k.Aliases {
			if a.GVK() == *gvk {
				return k, obj
			}
		}
	}
	t.Fatalf("%s is not served", gvk)
	return Kind{}, nil
}

func contextFor(k Kind, obj runtime.Object) context.Context {
	m, _ := meta.Accessor(obj)
	ns := m.GetNamespace()
	if k.Namespaced && ns == "" {
		ns = "default"
	}
	return request.WithNamespace(context.Background(), ns)
}

// create passes an object through what surrounds a create in the registry.
func create(k Kind, obj runtime.Object) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	if k.Namespaced && m.GetNamespace() == "" {
		m.SetNamespace("default")
	}
	m.SetCreationTimestamp(metav1.Unix(1700000000, 0))
	m.SetUID("00000000-0000-0000-0000-000000000001")
	return rest.BeforeCreate(k.Strategy, contextFor(k, obj), obj)
}

func updated(k Kind, s Strategy, obj, old runtime.Object) error {
	return rest.BeforeUpdate(s, contextFor(k, obj), obj, old)
}

func toYAML(t testing.TB, k Kind, obj runtime.Object) string {
	t.Helper()
	obj = obj.DeepCopyObject()
	obj.GetObjectKind().SetGroupVersionKind(k.GVK())
	out, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func documents(t testing.TB, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var docs []string
	for _, doc := range bytes.Split(data, []byte("\n---\n")) {
		if len(bytes.TrimSpace(doc)) > 0 {
			docs = append(docs, string(doc))
		}
	}
	return docs
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs (-want +got; run with -update to accept):\n%s", file, d)
	}
}

// TestCreateGolden passes each manifest of testdata/create through decoding (defaults) and the
// create strategy, and compares what would be stored.
func TestCreateGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/create/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden manifests: %v", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".stored.yaml") {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			var out []string
			for _, doc := range documents(t, file) {
				k, obj := decode(t, doc)
				if err := create(k, obj); err != nil {
					t.Errorf("create: %v", err)
				}
				out = append(out, toYAML(t, k, obj))
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".stored.yaml", strings.Join(out, "---\n"))
		})
	}
}

// TestDefaultsIdempotent: the defaults do not depend on how often they are filled in.
func TestDefaultsIdempotent(t *testing.T) {
	files, _ := filepath.Glob("testdata/create/*.yaml")
	for _, file := range files {
		for _, doc := range documents(t, file) {
			k, obj := decode(t, doc)
			if k.Default == nil {
				continue
			}
			again := obj.DeepCopyObject()
			k.Default(again)
			if d := cmp.Diff(obj, again); d != "" {
				t.Errorf("%s: %s: defaults changed their own result:\n%s", file, k.Kind, d)
			}
		}
	}
}

// TestStoredIsStable: what is stored can be read, applied and stored again unchanged.
func TestStoredIsStable(t *testing.T) {
	files, _ := filepath.Glob("testdata/create/*.stored.yaml")
	for _, file := range files {
		for _, doc := range documents(t, file) {
			k, obj := decode(t, doc)
			m, err := meta.Accessor(obj)
			if err != nil {
				t.Fatal(err)
			}
			m.SetResourceVersion("1")
			old := obj.DeepCopyObject()
			if err := updated(k, k.Strategy, obj, old); err != nil {
				t.Errorf("%s: %s: an update that changes nothing is refused: %v", file, k.Kind, err)
			}
			if d := cmp.Diff(old, obj); d != "" {
				t.Errorf("%s: %s: an update that changes nothing changed:\n%s", file, k.Kind, d)
			}
		}
	}
}

func TestTable(t *testing.T) {
	seen := map[resource.Resource]bool{}
	short := map[string]string{}
	for _, k := range All() {
		if seen[k.Resource] {
			t.Errorf("%s is in the table twice", k.Resource)
		}
		seen[k.Resource] = true
		for _, name := range k.ShortNames {
			if other := short[name]; other != "" {
				t.Errorf("short name %s belongs to %s and %s", name, other, k.Plural)
			}
			short[name] = k.Plural
		}
		if k.Singular != strings.ToLower(k.Kind) {
			t.Errorf("%s: singular %q", k.Kind, k.Singular)
		}
		if k.Strategy == nil || k.Columns == nil || k.GetAttrs == nil || k.New == nil || k.NewList == nil {
			t.Errorf("%s: incomplete", k.Kind)
			continue
		}
		if k.Strategy.NamespaceScoped() != k.Namespaced {
			t.Errorf("%s: scope", k.Kind)
		}
		if got := resource.Of(k.New()); got != k.Resource {
			t.Errorf("%s: New makes a %s", k.Kind, got.Kind)
		}
		_, fields, err := k.GetAttrs(k.New())
		if err != nil {
			t.Errorf("%s: attrs: %v", k.Kind, err)
		}
		if len(fields) != len(k.SelectableFields) {
			t.Errorf("%s: has fields %v, lists %v", k.Kind, fields, k.SelectableFields)
		}
		for _, f := range k.SelectableFields {
			if _, ok := fields[f]; !ok {
				t.Errorf("%s: field %s is listed and not filled in", k.Kind, f)
			}
			if label, _, err := scheme.Scheme.ConvertFieldLabel(k.GVK(), f, "x"); err != nil || label != f {
				t.Errorf("%s: field %s: %v", k.Kind, f, err)
			}
		}
		if _, _, err := scheme.Scheme.ConvertFieldLabel(k.GVK(), "spec.nonsense", "x"); err == nil {
			t.Errorf("%s: an unknown field label is accepted", k.Kind)
		}
		if k.Status != nil {
			if got := k.Strategy.GetResetFields(); len(got) == 0 && k.Kind != "Node" {
				t.Errorf("%s: has a status and resets nothing", k.Kind)
			}
		}
	}
	for _, res := range []resource.Resource{
		resource.Namespaces, resource.Nodes, resource.Pods, resource.PodTemplates, resource.ReplicationControllers, resource.Services,
		resource.Endpoints, resource.ConfigMaps, resource.Secrets, resource.ServiceAccounts, resource.Events, resource.PersistentVolumes,
		resource.PersistentVolumeClaims, resource.ResourceQuotas, resource.LimitRanges, resource.Deployments, resource.ReplicaSets,
		resource.StatefulSets, resource.DaemonSets, resource.ControllerRevisions, resource.EndpointSlices, resource.StorageClasses,
		resource.Leases, resource.PriorityClasses, resource.PodDisruptionBudgets,
	} {
		if !seen[res] {
			t.Errorf("%s is not in the table", res)
		}
	}
	if k, ok := For(resource.EventsV1); !ok || k.Resource != resource.Events {
		t.Error("events of events.k8s.io are not those of core")
	}
}
