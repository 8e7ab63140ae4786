package users

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Range{"": Default, "65536:7208960": {1 << 16, 110 * PerPod}, "4294836224:65536": {0xfffe0000, PerPod}} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
		if again, err := Parse(want.String()); err != nil || again != want {
			t.Errorf("%s: %v %v", want, again, err)
		}
	}
	for _, text := range []string{"65536", "0:65536", "65536:0", "1:65536", "65536:1", "-1:65536", "65536:4294901760", "4294901760:65536", "x:y", "65536:65536:1"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	if end := uint64(Default.First) + uint64(Default.Count); end != 0x7ffe0000 || Default.Pods() != 4094 {
		t.Errorf("the default ends at %x, for %d pods", end, Default.Pods())
	}
}

func open(t *testing.T, dir, owner string, pods uint32) *Book {
	t.Helper()
	if err := os.MkdirAll(owner, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir, owner, Range{PerPod, pods * PerPod})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBookNeverGivesTwice: whatever agents take and free, start again and vanish, no two pods have the same ids, and a pod
// keeps its own.
func TestBookNeverGivesTwice(t *testing.T) {
	const agents, pods = 3, 5
	rapid.Check(t, func(rt *rapid.T) {
		base, err := os.MkdirTemp("", "book-")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(base)
		dir := filepath.Join(base, "book")
		owner := func(i int) string { return filepath.Join(base, fmt.Sprint("agent", i)) }
		books := map[int]*Book{}
		have := map[string]uint32{}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			i := rapid.IntRange(0, agents-1).Draw(rt, "agent")
			pod := types.UID(fmt.Sprint(i, "-", rapid.IntRange(0, pods-1).Draw(rt, "pod")))
			restart := rapid.Bool().Draw(rt, "restart")
			if books[i] == nil || restart {
				books[i] = open(t, dir, owner(i), 7)
			}
			if rapid.Bool().Draw(rt, "free") {
				if err := books[i].Free(pod); err != nil {
					rt.Fatal(err)
				}
				delete(have, string(pod))
				continue
			}
			first, err := books[i].Take(pod)
			if errors.Is(err, ErrNone) && len(have) == 7 && have[string(pod)] == 0 {
				continue
			}
			if err != nil {
				rt.Fatal(err)
			}
			if was, ok := have[string(pod)]; ok && was != first {
				rt.Fatalf("%s had %d, and gets %d", pod, was, first)
			}
			have[string(pod)] = first
			for other, theirs := range have {
				if other != string(pod) && theirs == first {
					rt.Fatalf("%s and %s both have %d", pod, other, first)
				}
			}
		}
	})
}

// TestBookOfManyAgents: agents that take at the same moment get different ids.
func TestBookOfManyAgents(t *testing.T) {
	base := t.TempDir()
	var mu sync.Mutex
	seen := map[uint32]types.UID{}
	var wg sync.WaitGroup
	for i := range 4 {
		b := open(t, filepath.Join(base, "book"), filepath.Join(base, fmt.Sprint(i)), 40)
		for j := range 10 {
			wg.Go(func() {
				pod := types.UID(fmt.Sprint(i, "-", j))
				first, err := b.Take(pod)
				mu.Lock()
				defer mu.Unlock()
				if other, twice := seen[first]; err != nil || twice || first < PerPod || first > 40*PerPod {
					t.Errorf("%s: %d (%s) %v", pod, first, other, err)
				}
				seen[first] = pod
			})
		}
	}
	wg.Wait()
}

// TestBookForgets: what a vanished agent had is given again, and what one forgets leaves nothing.
func TestBookForgets(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "book")
	a, b := open(t, dir, filepath.Join(base, "a"), 1), open(t, dir, filepath.Join(base, "b"), 1)
	if _, err := a.Take("first"); err != nil {
		t.Fatal(err)
	}
	if first, err := b.Take("second"); !errors.Is(err, ErrNone) {
		t.Fatalf("%d %v", first, err)
	}
	if err := os.RemoveAll(filepath.Join(base, "a")); err != nil {
		t.Fatal(err)
	}
	if first, err := b.Take("second"); err != nil || first != PerPod {
		t.Errorf("%d %v", first, err)
	}
	if err := b.Keep(func(pod types.UID) bool { return pod == "second" }); err != nil {
		t.Error(err)
	}
	if again := open(t, dir, filepath.Join(base, "b"), 1); again.given["second"] != PerPod {
		t.Errorf("an agent that starts again knows %v", again.given)
	}
	if err := Forget(dir, filepath.Join(base, "b")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the book is left: %v", err)
	}
}
