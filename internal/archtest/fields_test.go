package archtest

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/kind"
)

var update = flag.Bool("update", false, "write the page of all fields")

const (
	fieldsData = "internal/archtest/testdata/fields.txt"
	fieldsPage = "docs/design/0019-every-field.md"
)

// The answers that there are to a field.
var answers = map[string]string{
	"obeyed":  "done as the API says, by the rooms named",
	"kept":    "stored and told for others: by the API's own word nothing in a cluster acts on it",
	"told":    "a status: written by the rooms named, and stored as its writer sends it",
	"warned":  "stored, and nothing acts on it yet: every write is answered with a warning that says so",
	"refused": "an error of the API that names it (422), so that nobody relies on what is not done",
	"held":    "refused by the node or a controller: the object waits or fails, with reason, event and `why`",
}

// once are the types that are told of by themselves, and not again wherever they are part of a kind.
var once = map[reflect.Type]string{
	reflect.TypeFor[metav1.ObjectMeta]():                  "ObjectMeta",
	reflect.TypeFor[metav1.LabelSelector]():               "LabelSelector",
	reflect.TypeFor[corev1.PodTemplateSpec]():             "PodTemplateSpec",
	reflect.TypeFor[corev1.PodSpec]():                     "PodSpec",
	reflect.TypeFor[corev1.Container]():                   "Container",
	reflect.TypeFor[corev1.EphemeralContainerCommon]():    "Container",
	reflect.TypeFor[corev1.Probe]():                       "Probe",
	reflect.TypeFor[corev1.LifecycleHandler]():            "LifecycleHandler",
	reflect.TypeFor[corev1.Volume]():                      "Volume",
	reflect.TypeFor[corev1.ContainerStatus]():             "ContainerStatus",
	reflect.TypeFor[corev1.NodeSelector]():                "NodeSelector",
	reflect.TypeFor[corev1.NodeSelectorTerm]():            "NodeSelectorTerm",
	reflect.TypeFor[corev1.PodAffinityTerm]():             "PodAffinityTerm",
	reflect.TypeFor[corev1.Toleration]():                  "Toleration",
	reflect.TypeFor[corev1.PersistentVolumeClaimSpec]():   "PersistentVolumeClaimSpec",
	reflect.TypeFor[corev1.PersistentVolumeClaimStatus](): "PersistentVolumeClaimStatus",
}

// whole are the types whose fields are not fields of the API: they are written as one value.
var whole = []reflect.Type{
	reflect.TypeFor[quantity.Quantity](), reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime](),
	reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[metav1.FieldsV1](), reflect.TypeFor[runtime.RawExtension](),
}

// fieldWalk lists the fields of types, by path, with the names of the API.
type fieldWalk struct {
	paths []string
	seen  map[string]bool
	more  []reflect.Type
}

// servedFields are the fields of every kind served.
func servedFields() []string {
	w := &fieldWalk{seen: map[string]bool{}}
	for _, k := range kind.All() {
		w.walk(reflect.TypeOf(k.New()), k.Kind)
	}
	for len(w.more) > 0 {
		t := w.more[0]
		w.more = w.more[1:]
		w.fields(t, once[t])
	}
	return w.paths
}

func (w *fieldWalk) walk(t reflect.Type, path string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || slices.Contains(whole, t) {
		return
	}
	if name, alone := once[t]; alone {
		if !w.seen[name] {
			w.seen[name] = true
			w.more = append(w.more, t)
		}
		return
	}
	w.fields(t, path)
}

func (w *fieldWalk) fields(t reflect.Type, path string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Type == reflect.TypeFor[metav1.TypeMeta]():
		case name == "" && f.Anonymous:
			w.walk(f.Type, path)
		default:
			w.paths = append(w.paths, path+"."+name)
			w.walk(f.Type, path+"."+name)
		}
	}
}

// answer is what becomes of some fields.
type answer struct {
	line              int
	what, rooms, note string
	tests, fields     []string
}

// readAnswers reads the table: a line of answer | rooms | tests | note, and below it the fields that it holds for, one a
// line. A field that ends in .* stands for all below it, of which none can be relied on: such a group is refused or held.
func readAnswers(t *testing.T) (all []answer) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(read(t, fieldsData)))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "  "):
			if len(all) == 0 {
				t.Fatalf("%s:%d: a field without an answer above it", fieldsData, n)
			}
			last := &all[len(all)-1]
			last.fields = append(last.fields, strings.TrimSpace(line))
		default:
			cells := strings.Split(line, " | ")
			if len(cells) != 4 {
				t.Fatalf("%s:%d: want answer | rooms | tests | note", fieldsData, n)
			}
			all = append(all, answer{line: n, what: cells[0], rooms: cells[1], tests: strings.Fields(cells[2]), note: cells[3]})
		}
	}
	return all
}

// TestEveryField: every field of every kind served has one answer, with a room and a test that are in the tree; and no line
// is about a field that there is not.
func TestEveryField(t *testing.T) {
	fields, tests, rooms := servedFields(), testsOf(t), map[string]bool{}
	for _, f := range tree(t) {
		rooms[f.room] = true
	}
	if len(fields) < 1000 {
		t.Fatalf("%d fields: is the walk right?", len(fields))
	}
	given := map[string]int{}
	all := readAnswers(t)
	for _, a := range all {
		if answers[a.what] == "" {
			t.Errorf("%s:%d: %q is no answer", fieldsData, a.line, a.what)
		}
		for _, room := range strings.Fields(a.rooms) {
			if !rooms["internal/"+room] {
				t.Errorf("%s:%d: there is no room %q", fieldsData, a.line, room)
			}
		}
		if a.rooms == "" || len(a.tests) == 0 || len(a.fields) == 0 {
			t.Errorf("%s:%d: rooms, tests and fields must be named", fieldsData, a.line)
		}
		if a.note == "" && a.what != "obeyed" && a.what != "told" {
			t.Errorf("%s:%d: say how it is %s", fieldsData, a.line, a.what)
		}
		for _, name := range a.tests {
			test, part, _ := strings.Cut(name, "/")
			files, found := tests[test]
			if !found {
				t.Errorf("%s:%d: there is no test %s", fieldsData, a.line, test)
			}
			if part != "" && !partOf(t, files, part) {
				t.Errorf("%s:%d: %s has no part %q", fieldsData, a.line, test, part)
			}
		}
		for _, path := range a.fields {
			if below, many := strings.CutSuffix(path, ".*"); many {
				if a.what != "refused" && a.what != "held" {
					t.Errorf("%s:%d: %s: only what is refused or held as a whole is told of as a whole", fieldsData, a.line, path)
				}
				given[below] = a.line
			} else if was := given[path]; was != 0 {
				t.Errorf("%s:%d: %s has an answer in line %d already", fieldsData, a.line, path, was)
			}
			given[path] = a.line
		}
	}
	checkFields(t, fields, given)
	page := pageOfFields(all, fields)
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(filepath.Join(root, fieldsPage), []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, fieldsPage) != page {
		t.Errorf("%s is not what %s says: go test ./internal/archtest -run EveryField -update", fieldsPage, fieldsData)
	}
}

// partOf says whether a part is named in a test's files, or is one of the golden files beside them.
func partOf(t *testing.T, files []string, part string) bool {
	t.Helper()
	if slices.ContainsFunc(files, func(text string) bool { return strings.Contains(text, `"`+part+`"`) }) {
		return true
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"internal/*/testdata/*/" + part, "internal/*/*/testdata/" + part} {
		if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 {
			return true
		}
	}
	return false
}

func checkFields(t *testing.T, fields []string, given map[string]int) {
	t.Helper()
	known := map[string]bool{}
	for _, path := range fields {
		known[path] = true
		if given[path] == 0 && coveredBy(path, given) == "" {
			t.Errorf("%s: no line in %s", path, fieldsData)
		}
	}
	for path, line := range given {
		if !known[strings.TrimSuffix(path, ".*")] {
			t.Errorf("%s:%d: there is no field %s", fieldsData, line, path)
		}
	}
}

// coveredBy is the line, ending in .*, that answers for a field.
func coveredBy(path string, given map[string]int) string {
	for at := strings.LastIndexByte(path, '.'); at > 0; at = strings.LastIndexByte(path[:at], '.') {
		if above := path[:at] + ".*"; given[above] != 0 {
			return above
		}
	}
	return ""
}

// pageOfFields is the page that shows the table to readers.
func pageOfFields(all []answer, fields []string) string {
	counts, given := map[string]int{}, map[string]string{}
	for _, a := range all {
		for _, path := range a.fields {
			given[path] = a.what
			if below, many := strings.CutSuffix(path, ".*"); many {
				given[below] = a.what
			}
		}
	}
	lines := map[string]int{}
	for path := range given {
		lines[path] = 1
	}
	for _, path := range fields {
		what := given[path]
		if what == "" {
			what = given[coveredBy(path, lines)]
		}
		counts[what]++
	}
	var b strings.Builder
	b.WriteString(fieldsHead)
	fmt.Fprintf(&b, "| answer | fields | |\n|---|---|---|\n")
	for _, what := range []string{"obeyed", "kept", "told", "warned", "refused", "held"} {
		fmt.Fprintf(&b, "| %s | %d | %s |\n", what, counts[what], answers[what])
	}
	fmt.Fprintf(&b, "| | %d | |\n", len(fields))
	for _, what := range []string{"warned", "refused", "held", "obeyed", "kept", "told"} {
		fmt.Fprintf(&b, "\n## %s%s\n\n| fields | by | how | tests |\n|---|---|---|---|\n", strings.ToUpper(what[:1]), what[1:])
		for _, a := range all {
			if a.what == what {
				fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", code(a.fields), code(strings.Fields(a.rooms)), a.note, code(a.tests))
			}
		}
	}
	return b.String()
}

func code(words []string) string { return "`" + strings.Join(words, "` `") + "`" }

const fieldsHead = `# 0019: every field has an answer

A field that a server accepts and nothing acts on is a promise that is not kept; where it is about security it is a hole. So each
field of each kind served is obeyed, or refused by the API with an error that names it, or refused where the object is acted upon, and
then the object says what it waits for. There is no fourth answer, but for kinds that are served before their enforcement is: those answer
every write with a warning that says so, and are told of first. Where Kubernetes drops a field in silence, because it is alpha or its
driver is gone, it is refused here.

This page is made from ` + "`" + fieldsData + "`" + `, which a test holds against the Go types: a field without a line fails it, as does a
line without a field, or a test that is not in the tree. Types that several kinds share are told of once, under their own name. A path that
ends in ` + "`.*`" + ` stands for all below it.

Services: addresses and ports are given out, and endpoints follow the pods; no node routes to them yet (ROADMAP), so what only a proxy acts
on is kept for one.

`
