package rehearse

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/cluster/volume"
	"coracle/internal/kind"
	"coracle/internal/object"
	"coracle/internal/rehearse/manifest"
	"coracle/internal/resource"
	"coracle/internal/scheme"
	"coracle/internal/simnode"
	"coracle/internal/virtual"
)

var update = flag.Bool("update", false, "rewrite the expected reports of golden scenarios")

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestScenarios are reports spelled out. A scenario has a section "cluster" with the nodes (NAME CPUS, one a line) and one
// "given" with what was applied ten minutes ago; images tell their fate there: slow ones take 3 s to be ready, bad ones
// cannot be pulled, crashing ones crash, stale ones never become ready. "change" holds the flags, "apply" the manifests, and
// "report" what is expected, or "json" or "error".
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios (%v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			archive := txtar.Parse(raw)
			sections := map[string]string{}
			for _, s := range archive.Files {
				sections[s.Name] = string(s.Data)
			}
			changed := false
			for i := range archive.Files {
				s := &archive.Files[i]
				if s.Name != "report" && s.Name != "json" && s.Name != "error" {
					continue
				}
				got := rehearsed(t, sections, s.Name)
				if again := rehearsed(t, sections, s.Name); again != got {
					t.Errorf("told otherwise the second time:\n%s", cmp.Diff(got, again))
				}
				if d := cmp.Diff(string(s.Data), got); d != "" && !*update {
					t.Errorf("%s (-want +got):\n%s", s.Name, d)
				}
				changed = changed || string(s.Data) != got
				s.Data = []byte(got)
			}
			if changed && *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func rehearsed(t *testing.T, sections map[string]string, form string) string {
	t.Helper()
	in := Input{Start: epoch.Add(10 * time.Minute), Objects: given(t, sections), Namespace: "default", Within: time.Hour}
	for _, d := range documents(t, sections["apply"]) {
		in.Changes = append(in.Changes, Change{Verb: Apply, Ref: d.Ref, Object: served(t, in.Objects, d)})
	}
	for flag := range strings.Lines(sections["change"]) {
		in.flag(t, strings.TrimSpace(flag))
	}
	report, err := Rehearse(in)
	if form == "error" {
		return fmt.Sprintln(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if form == "json" {
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		err = enc.Encode(report)
	} else {
		err = report.Text(&b, "the cluster")
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (in *Input) flag(t *testing.T, flag string) {
	t.Helper()
	if flag == "" {
		return
	}
	name, value, _ := strings.Cut(flag, " ")
	duration := func() *time.Duration {
		d, err := time.ParseDuration(value)
		if err != nil {
			t.Fatal(err)
		}
		return &d
	}
	switch name {
	case "ready-after":
		in.ReadyAfter = duration()
	case "stop-after":
		in.StopAfter = duration()
	case "within":
		in.Within = *duration()
	case "verbose":
		in.Verbose = true
	case string(Scale), string(Restart), string(Delete):
		target, number, _ := strings.Cut(value, "=")
		n, _ := strconv.Atoi(number)
		word, name, _ := strings.Cut(target, "/")
		for _, k := range kind.All() {
			if k.Singular == word {
				in.Changes = append(in.Changes, Change{Verb: Verb(name2verb(flag)), Replicas: int32(n),
					Ref: object.Ref{Resource: k.Resource, Key: object.Key{Namespace: map[bool]string{true: "default"}[k.Namespaced], Name: name}}})
			}
		}
	case string(Cordon), string(Drain), string(Fail):
		in.Changes = append(in.Changes, Change{Verb: Verb(name), Ref: object.Ref{Resource: resource.Nodes, Key: object.Key{Name: value}}})
	default:
		t.Fatalf("no such flag: %s", flag)
	}
}

func name2verb(flag string) string { verb, _, _ := strings.Cut(flag, " "); return verb }

func documents(t *testing.T, text string) []manifest.Document {
	t.Helper()
	docs, err := manifest.Parse("test", strings.NewReader(text), "default")
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

func decode(t *testing.T, d manifest.Document) object.Object {
	t.Helper()
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(d.JSON, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if k, _ := kind.For(d.Ref.Resource); k.Default != nil {
		k.Default(o)
	}
	return o.(object.Object)
}

// served is the object as the server's dry run would return it: new, or with the identity and status of the one there is.
func served(t *testing.T, objects []object.Object, d manifest.Document) object.Object {
	t.Helper()
	o := decode(t, d)
	for _, have := range objects {
		if resource.Of(have) == d.Ref.Resource && object.KeyOf(have) == d.Ref.Key {
			o.SetUID(have.GetUID())
			o.SetResourceVersion(have.GetResourceVersion())
			o.SetCreationTimestamp(have.GetCreationTimestamp())
			notes := maps.Clone(o.GetAnnotations())
			if notes == nil {
				notes = map[string]string{}
			}
			maps.Copy(notes, have.GetAnnotations())
			maps.Copy(notes, o.GetAnnotations())
			o.SetAnnotations(notes)
		}
	}
	return o
}

// given makes the cluster: a virtual one that has run for ten minutes.
func given(t *testing.T, sections map[string]string) []object.Object {
	t.Helper()
	objects := []object.Object{}
	for _, ns := range []string{"default", "kube-node-lease"} {
		objects = append(objects, &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: ns, UID: "namespace", ResourceVersion: "1"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}})
	}
	var names []string
	for line := range strings.Lines(sections["cluster"]) {
		words := strings.Fields(line)
		objects = append(objects, machine(words[0], words[1]))
		names = append(names, words[0])
	}
	c := copied(epoch, objects, nil, func(pod *corev1.Pod, _ *corev1.Node) simnode.Behavior {
		b := simnode.Behavior{ReadyAfter: time.Second, StopAfter: time.Second}
		switch image := pod.Spec.Containers[0].Image; {
		case strings.HasPrefix(image, "slow"):
			b.ReadyAfter = 3 * time.Second
		case strings.HasPrefix(image, "bad"):
			b.PullError = "the image " + image + " cannot be pulled here now"
			b.PullBackOff = b.PullError
		case strings.HasPrefix(image, "crash"):
			b.Ends, b.EndAfter, b.ExitCode, b.NeverReady = true, time.Second, 1, true
		case strings.HasPrefix(image, "stale"):
			b.NeverReady = true
		}
		return b
	}, virtual.Hooks{})
	settle(t, c, epoch)
	for _, d := range documents(t, sections["given"]) {
		if err := c.do(func(ctx context.Context, api client.Interface) error {
			_, err := api.Create(ctx, decode(t, d))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, c, epoch.Add(10*time.Minute))
	var out []object.Object
	for _, res := range resource.All() {
		out = append(out, c.Truth().List(res, "")...)
	}
	return out
}

func settle(t *testing.T, c *world, until time.Time) {
	t.Helper()
	for {
		if err := c.settle(); err != nil {
			t.Fatal(err)
		}
		next, ok := c.next()
		if !ok || next.After(until) {
			return
		}
		c.Advance(next)
	}
}

func machine(name, cpus string) *corev1.Node {
	room := corev1.ResourceList{"cpu": apires.MustParse(cpus), "memory": apires.MustParse("64Gi"), "pods": apires.MustParse("110")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: "node-of-that-name", ResourceVersion: "1", Labels: map[string]string{corev1.LabelHostname: name},
			Annotations:       map[string]string{volume.RootAnnotation: "/volumes"},
			CreationTimestamp: metav1.NewTime(epoch.Add(-time.Hour))},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.200"}}, Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.NewTime(epoch)}}},
	}
}
