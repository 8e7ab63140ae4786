package snapshotfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/filetree/scratch"
	"coracle/internal/object"
	"coracle/internal/resource"
)

func service(name, ip string) Change {
	return Change{resource.Services, object.Key{Namespace: "shop", Name: name}, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip},
	}}
}

func told(t *testing.T, f *File) string {
	t.Helper()
	list, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	out := ""
	for _, c := range list {
		out += c.Key.Name
		if s, is := c.Object.(*corev1.Service); is {
			out += "=" + s.Spec.ClusterIP
		}
		out += " "
	}
	return out
}

func TestFile(t *testing.T) {
	dir := filepath.Join(scratch.Dir(t), "kept")
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := told(t, f); got != "" || !f.Due() {
		t.Errorf("a new file tells %q", got)
	}
	slice := Change{resource.EndpointSlices, object.Key{Namespace: "shop", Name: "a-1"}, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a-1"}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}}},
	}}
	if err := f.Write([]Change{service("a", "1"), slice, service("b", "2")}); err != nil {
		t.Fatal(err)
	}
	gone := service("b", "")
	gone.Object = nil
	for _, batch := range [][]Change{{service("a", "3"), gone}, {service("c", "4")}} {
		if err := f.Add(batch); err != nil {
			t.Fatal(err)
		}
	}
	const want = "a=3 a-1 c=4 "
	if got := told(t, f); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := f.Add([]Change{{Resource: resource.Secrets}}); err == nil {
		t.Error("a Secret is kept")
	}
	// One that was ended in the middle of a rewrite left something.
	if err := os.WriteFile(filepath.Join(dir, partial), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; !f.Due(); i++ {
		if err := f.Add([]Change{service("a", fmt.Sprint(i))}); err != nil || i > 100_000 {
			t.Fatal(i, err)
		}
	}
	if err := f.Write([]Change{service("z", "9")}); err != nil || f.Due() {
		t.Fatal(err)
	}
	if got := told(t, f); got != "z=9 " {
		t.Errorf("%q", got)
	}
}

// TestDamage: nothing that was not written so is believed, and what comes before it is.
func TestDamage(t *testing.T) {
	var raw []byte
	for _, c := range []Change{service("a", "1"), service("b", "2")} {
		text, err := encode(c)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, text...)
	}
	first := bytes.IndexByte(raw, '\n')
	for at := range raw {
		for _, bad := range [][]byte{append(append(append([]byte{}, raw[:at]...), raw[at]^4), raw[at+1:]...), raw[:at]} {
			list, err := replay(bad)
			for i, c := range list {
				if s := c.Object.(*corev1.Service); s.Spec.ClusterIP != fmt.Sprint(i+1) || c.Key.Name != string(rune('a'+i)) {
					t.Fatalf("byte %d: %+v is believed", at, c)
				}
			}
			if at > first && len(list) < 1 || len(list) == 2 && err != nil {
				t.Fatalf("byte %d: %d are left: %v", at, len(list), err)
			}
		}
	}
}
