// Package scratch gives directories to tests that mount.
//
// It owns the end of such a directory: what is mounted there still, because a test failed half-way, is unmounted, and
// what was mounted is never removed with it, as testing's own directories would be. It refuses to be used by the
// product.
package scratch

import (
	"os"
	"testing"

	"coracle/internal/filetree"
)

// Dir is an empty directory, which the end of the test removes.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "scratch-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := filetree.Dismantle(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return dir
}
