package podfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/filetree/scratch"
	"coracle/internal/node/volume"
)

func entry() Entry {
	return Entry{
		Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: "web", UID: "uid-web", ResourceVersion: "7", Labels: map[string]string{"app": "web"},
				ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
			},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1", Command: []string{"serve"}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
				{Name: "main", ContainerID: "coracle://abc", RestartCount: 3, Ready: true}}},
		},
		Gone:    true,
		Volumes: map[string]volume.Ready{"data": {Path: "/somewhere", Kind: "directory", ReadOnly: true}},
	}
}

func encoded(t testing.TB, e Entry) []byte {
	t.Helper()
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRoundTrip(t *testing.T) {
	e := entry()
	raw := encoded(t, e)
	if e.Pod.ResourceVersion != "7" || e.Pod.ManagedFields == nil {
		t.Error("encoding changes the pod")
	}
	got, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	e.Pod.ResourceVersion, e.Pod.ManagedFields = "", nil
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
	if again := encoded(t, got); string(again) != string(raw) {
		t.Error("what was read is written otherwise")
	}
}

// TestDamageIsRefused: no byte that changed, no cut and nothing behind the end passes for what was written.
func TestDamageIsRefused(t *testing.T) {
	raw := encoded(t, entry())
	refused := func(what string, bad []byte) {
		if e, err := Decode(bad); err == nil {
			t.Errorf("%s: read as %+v", what, e)
		}
	}
	for at := range raw {
		for bit := range 8 {
			bad := append([]byte{}, raw...)
			bad[at] ^= 1 << bit
			refused(fmt.Sprintf("byte %d, bit %d", at, bit), bad)
		}
		bad := append([]byte{}, raw...)
		bad[at] = 0
		refused(fmt.Sprintf("byte %d zero", at), bad)
		refused(fmt.Sprintf("cut at %d", at), raw[:at])
		refused(fmt.Sprintf("without the first %d", at+1), raw[at+1:])
	}
	refused("twice", append(append([]byte{}, raw...), raw...))
	refused("a line more", append(append([]byte{}, raw...), '\n'))
	refused("no pod", seal.Seal([]byte("{}")))
}

func TestFiles(t *testing.T) {
	path := filepath.Join(scratch.Dir(t), "known")
	files, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	load := func() map[types.UID]Entry {
		t.Helper()
		list, err := files.Load()
		if err != nil {
			t.Fatal(err)
		}
		out := map[types.UID]Entry{}
		for _, e := range list {
			out[e.Pod.UID] = e
		}
		return out
	}
	one, other := entry(), entry()
	other.Pod.UID, other.Gone = "other", false
	for _, e := range []Entry{one, other} {
		if err := files.Write(e.Pod.UID, encoded(t, e)); err != nil {
			t.Fatal(err)
		}
	}
	// What an agent that was killed in the middle of a write leaves is no obstacle, and not read.
	if err := os.WriteFile(filepath.Join(path, "other.tmp"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := load(); len(got) != 2 || !got["uid-web"].Gone {
		t.Errorf("%+v", got)
	}
	other.Gone = true
	if err := files.Write("other", encoded(t, other)); err != nil {
		t.Fatal(err)
	}
	if got := load(); !got["other"].Gone {
		t.Error("the older version is read")
	}
	for name, mode := range map[string]os.FileMode{path: 0o700, filepath.Join(path, "other.pod"): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	for range 2 {
		if err := files.Remove("uid-web"); err != nil {
			t.Fatal(err)
		}
	}
	if got := load(); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	// One pod's file in another's place is damage too.
	if err := os.Rename(filepath.Join(path, "other.pod"), filepath.Join(path, "third.pod")); err != nil {
		t.Fatal(err)
	}
	if list, err := files.Load(); len(list) != 0 || err == nil || !strings.Contains(err.Error(), "third.pod") {
		t.Errorf("%v %v", list, err)
	}
	if uids, err := files.UIDs(); err != nil || len(uids) != 1 || uids[0] != "third" {
		t.Errorf("%v %v", uids, err)
	}
}

// large is a pod of three containers with probes, as a chart makes them.
func large() Entry {
	e := entry()
	e.Pod.Spec.Containers = nil
	for i := range 3 {
		c := corev1.Container{
			Name: fmt.Sprint("c", i), Image: "registry.example/team/app:1.2.3", Command: []string{"serve", "--port", "8080"},
		}
		for j := range 12 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", j), Value: "some value or other"})
		}
		e.Pod.Spec.Containers = append(e.Pod.Spec.Containers, c)
	}
	return e
}

// BenchmarkEncode is what a change costs before the disk.
func BenchmarkEncode(b *testing.B) {
	e := large()
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(encoded(b, e))))
	}
}

// BenchmarkWrite is one durable write; TMPDIR says on which disk.
func BenchmarkWrite(b *testing.B) {
	files, err := Open(filepath.Join(b.TempDir(), "known"))
	if err != nil {
		b.Fatal(err)
	}
	raw := encoded(b, large())
	b.ReportAllocs()
	for b.Loop() {
		if err := files.Write("uid", raw); err != nil {
			b.Fatal(err)
		}
	}
}
