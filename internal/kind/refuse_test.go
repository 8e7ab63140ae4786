package kind

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
)

// causes prints the field errors of an API error, one per line.
func causes(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return "  accepted\n"
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return "  " + err.Error() + "\n"
	}
	var out strings.Builder
	for _, c := range status.Status().Details.Causes {
		// A diff after the first line is for people; it holds pointers.
		message, _, _ := strings.Cut(c.Message, "\n")
		out.WriteString("  " + c.Field + ": " + message + "\n")
	}
	return out.String()
}

func comment(doc string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(doc), "\n")
	return line
}

// TestRefuse holds manifests that must not be stored, and the very words they are refused with.
func TestRefuse(t *testing.T) {
	files, _ := filepath.Glob("testdata/refuse/*.yaml")
	if len(files) == 0 {
		t.Fatal("no manifests")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var out strings.Builder
			for _, doc := range documents(t, file) {
				k, obj := decode(t, doc)
				err := create(k, obj)
				if err == nil {
					t.Errorf("accepted: %s", comment(doc))
				}
				out.WriteString(comment(doc) + "\n" + causes(t, err))
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".errors", out.String())
		})
	}
}

// TestChange holds pairs of manifests, what is stored and what an update asks for, and what comes
// of it. A comment that begins with "# status" updates the status subresource.
func TestChange(t *testing.T) {
	files, _ := filepath.Glob("testdata/change/*.yaml")
	if len(files) == 0 {
		t.Fatal("no manifests")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			docs := documents(t, file)
			var out strings.Builder
			for i := 0; i+1 < len(docs); i += 2 {
				k, old := decode(t, docs[i])
				before := old.DeepCopyObject()
				if err := create(k, old); err != nil {
					t.Fatalf("%s: %v", comment(docs[i]), err)
				}
				_, obj := decode(t, docs[i+1])
				m, _ := meta.Accessor(obj)
				was, _ := meta.Accessor(old)
				was.SetResourceVersion("7")
				m.SetResourceVersion("7")
				m.SetNamespace(was.GetNamespace())
				strategy := k.Strategy
				if strings.HasPrefix(comment(docs[i]), "# status") {
					strategy = k.Status
					reported, _ := meta.Accessor(before)
					reported.SetResourceVersion("7")
					reported.SetNamespace(was.GetNamespace())
					if err := updated(k, strategy, before, old); err != nil {
						t.Fatalf("%s: status: %v", comment(docs[i]), err)
					}
					old = before
				}
				err := updated(k, strategy, obj, old)
				out.WriteString(comment(docs[i]) + "\n" + causes(t, err))
				if err == nil && m.GetGeneration() != was.GetGeneration() {
					out.WriteString("  new generation\n")
				}
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".outcome", out.String())
		})
	}
}
