package check

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"
)

// TestNamesAgree: the quick checks accept just what the regular expressions accept.
func TestNamesAgree(t *testing.T) {
	name := rapid.OneOf(
		rapid.StringMatching(`[a-z0-9A-Z._-]{0,8}`),
		rapid.StringMatching(`[a-z0-9]{1,3}(\.[a-z0-9-]{0,4}){0,3}`),
		rapid.StringMatching(`[a-z]{60,66}`),
		rapid.StringMatching(`([a-z]{20}\.){11,13}[a-z]{1,20}`),
		rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		s := name.Draw(t, "name")
		if got, want := IsLabel(s), len(validation.IsDNS1123Label(s)) == 0; got != want {
			t.Fatalf("label %q: %v, want %v", s, got, want)
		}
		if got, want := isSubdomain(s), len(validation.IsDNS1123Subdomain(s)) == 0; got != want {
			t.Fatalf("subdomain %q: %v, want %v", s, got, want)
		}
	})
}

func TestPaths(t *testing.T) {
	at := field.NewPath("p")
	for _, c := range []struct {
		path                    string
		noBack, local, reserved int
	}{
		{"a/b", 0, 0, 0}, {"/a", 0, 1, 1}, {"a/../b", 1, 1, 1}, {"..", 1, 1, 2}, {"../a", 1, 1, 1}, {"..a", 0, 0, 1}, {"", 0, 0, 0}, {"a..", 0, 0, 0},
	} {
		if got := len(NoBacksteps(at, c.path)); got != c.noBack {
			t.Errorf("NoBacksteps %q: %d errors, want %d", c.path, got, c.noBack)
		}
		if got := len(LocalPath(at, c.path)); got != c.local {
			t.Errorf("LocalPath %q: %d errors, want %d", c.path, got, c.local)
		}
		if got := len(LocalName(at, c.path)); got != c.reserved {
			t.Errorf("LocalName %q: %d errors, want %d", c.path, got, c.reserved)
		}
	}
}
