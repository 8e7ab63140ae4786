package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// manyFiles makes 10,000 files in 100 directories.
func manyFiles(b *testing.B) string {
	b.Helper()
	root := b.TempDir()
	for d := range 100 {
		dir := filepath.Join(root, fmt.Sprintf("d%02d", d))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 100 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", f)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	return root
}

// BenchmarkSetGroup gives 10,000 files to another group each time.
func BenchmarkSetGroup(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("giving files to another group takes root")
	}
	root := manyFiles(b)
	b.ReportAllocs()
	for n := int64(0); b.Loop(); n++ {
		if err := setGroup(root, 4000+n%2, ownership{recursive: true, write: true}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSetGroupAgain gives 10,000 files to the group that they have: a pod's second start.
func BenchmarkSetGroupAgain(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("giving files to another group takes root")
	}
	root := manyFiles(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := setGroup(root, 4000, ownership{recursive: true, write: true}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUsage(b *testing.B) {
	root := manyFiles(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := usage(context.Background(), root, noLimit); err != nil {
			b.Fatal(err)
		}
	}
}
