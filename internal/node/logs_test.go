package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLinksToLogs: each attempt that the runtime knows has a link to its log; with the attempt the log goes, and with the
// pod all of them.
func TestLinksToLogs(t *testing.T) {
	inWorld(t, func(w *world) {
		links := func() (names []string) {
			entries, err := os.ReadDir(w.cfg.linksDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return names
		}
		w.create("bad", one("crash:1"))
		w.settle(time.Second)
		p := w.pod("bad")
		of := p.Namespace + "_bad_" + string(p.UID)
		dir := filepath.Join(w.cfg.logRoot(), of, "main")
		if err := os.MkdirAll(dir, 0o755); err != nil { // as the runtime does
			t.Fatal(err)
		}
		for _, name := range []string{"0.log", "0.log.20260101-000000", "3.log"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		w.settle(2 * time.Minute)
		if n := w.pod("bad").Status.ContainerStatuses[0].RestartCount; n < 3 {
			t.Fatalf("%d restarts", n)
		}
		got := links()
		if len(got) != 2 {
			t.Errorf("links: %q, want the last two attempts'", got)
		}
		for _, name := range got {
			to, err := os.Readlink(filepath.Join(w.cfg.linksDir(), name))
			if err != nil || !strings.HasPrefix(name, "bad_"+p.Namespace+"_main-") || !strings.HasPrefix(to, "/var/log/pods/"+of+"/main/") {
				t.Errorf("link %s to %q (%v)", name, to, err)
			}
		}
		if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) != 1 || filepath.Base(left[0]) != "3.log" {
			t.Errorf("logs left: %q (%v)", left, err)
		}
		w.delete("bad", nil)
		w.settle(time.Minute)
		w.want("bad", "gone")
		if got := links(); len(got) > 0 {
			t.Errorf("links of a pod that is gone: %q", got)
		}
	})
}

// TestLinksOfPodsThatAreGone: what an agent finds at its start of pods that are gone, it removes.
func TestLinksOfPodsThatAreGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("stays", one("server:1"))
		w.settle(time.Second)
		before, err := os.ReadDir(w.cfg.linksDir())
		if err != nil || len(before) != 1 {
			t.Fatalf("links: %v (%v)", before, err)
		}
		if err := os.Symlink("/var/log/pods/default_went_u1/c/0.log", filepath.Join(w.cfg.linksDir(), "went_default_c-1.log")); err != nil {
			t.Fatal(err)
		}
		w.restart()
		w.settle(time.Second)
		after, err := os.ReadDir(w.cfg.linksDir())
		if err != nil || len(after) != 1 || after[0].Name() != before[0].Name() {
			t.Errorf("links: %v (%v), want %v", after, err, before)
		}
	})
}
