package app

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-00500000 r-xp 00000000 fe:00 1  /bin/coracle
Rss:                 100 kB
Anonymous:             0 kB
Swap:                  0 kB
00500000-00600000 r--p 00100000 fe:00 1  /bin/coracle
Anonymous:            16 kB
Swap:                  0 kB
00600000-00700000 r--p 00200000 fe:00 1  /bin/coracle
Anonymous:             0 kB
Swap:                  4 kB
00700000-00800000 rw-p 00300000 fe:00 1  /bin/coracle
Anonymous:             0 kB
Swap:                  0 kB
7f0000000000-7f0000100000 r--p 00000000 fe:00 2  /lib/other
Anonymous:             0 kB
Swap:                  0 kB
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
`
	want := []mapping{{0x400000, 0x100000}}
	if diff := cmp.Diff(want, cleanMappings(smaps, "/bin/coracle"), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("mappings (-want +got):\n%s", diff)
	}
}

// The process that trims itself must go on: its data must be as they were.
func TestTrimMemoryKeepsData(t *testing.T) {
	words := map[string]int{"one": 1, "two": 2}
	trimMemory()
	if words["one"]+words["two"] != 3 {
		t.Fatal("data changed")
	}
}
