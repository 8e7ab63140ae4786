package sealed

import (
	"bytes"
	"errors"
	"testing"
)

// TestSealed changes a file in every way of one byte: it is read whole, or refused.
func TestSealed(t *testing.T) {
	kind := Kind{"coracle-test", 1}
	for _, content := range []string{"", "\n", `{"cluster":"a","revision":7}`} {
		file := kind.Seal([]byte(content))
		if got, err := kind.Open(file); err != nil || string(got) != content {
			t.Fatalf("%q: %q, %v", content, got, err)
		}
		refused := func(what string, at int, file []byte) {
			t.Helper()
			if got, err := kind.Open(file); !errors.Is(err, ErrDamaged) {
				t.Errorf("%q, %s at %d: read as %q, %v", content, what, at, got, err)
			}
		}
		for i := range file {
			for bit := range 8 {
				flipped := bytes.Clone(file)
				flipped[i] ^= 1 << bit
				refused("a flipped bit", i, flipped)
			}
			refused("cut", i, file[:i])
			refused("a byte left out", i, append(bytes.Clone(file[:i]), file[i+1:]...))
		}
		refused("a byte more", len(file), append(bytes.Clone(file), 0))
		refused("another version", 0, Kind{"coracle-test", 2}.Seal([]byte(content)))
		refused("another kind", 0, Kind{"coracle-tess", 1}.Seal([]byte(content)))
	}
}
