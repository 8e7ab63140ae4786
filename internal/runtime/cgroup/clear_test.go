package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testGroup opens a group below the top of the hierarchies that goes when the test ends.
func testGroup(t *testing.T) *Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	path := "/coracle-cgtest-" + strings.ReplaceAll(strings.ToLower(t.TempDir()), "/", "-")[1:]
	g, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if again, err := Open(path); err != nil || again.Clear() != nil || again.Exists() {
			t.Errorf("cgroup %s is left: %v", path, err)
		}
	})
	return g
}

// sleeper starts a process in the group that ends when it is killed.
func sleeper(t *testing.T, g *Group) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read x")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestClear(t *testing.T) {
	g := testGroup(t)
	below, err := Open(g.path + "/a/b")
	if err != nil {
		t.Fatal(err)
	}
	one, two, three := sleeper(t, g), sleeper(t, below), sleeper(t, below)
	// Half moved in: it is in the group on one hierarchy only.
	roots, err := Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	if !V2() {
		if err := os.WriteFile(filepath.Join(roots[0], g.path, "a", "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		if pids, err := g.Pids(); err != nil || len(pids) != 4 {
			t.Errorf("processes, ourselves half inside: %v %v", pids, err)
		}
		if err := os.WriteFile(filepath.Join(roots[0], "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		// Frozen, as one is whose runtime died while it stopped the container.
		if err := os.WriteFile(filepath.Join(below.m.Path("freezer"), "freezer.state"), []byte("FROZEN"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // also when there is nothing left
		again, err := Open(g.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Clear(); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range []*exec.Cmd{one, two, three} {
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("process %d: %v", cmd.Process.Pid, err)
		}
	}
}

func TestClaim(t *testing.T) {
	g := testGroup(t)
	release, err := g.Claim()
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(g.path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Claim(); !errors.Is(err, ErrClaimed) {
		t.Errorf("claimed twice: %v", err)
	}
	release()
	again, err := other.Claim()
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// BenchmarkClear is what every start of a container pays to be sure that no leftover is in its way,
// and what every end pays.
func BenchmarkClear(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("cgroups need root")
	}
	for name, made := range map[string]bool{"nothing there": false, "made": true} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if made {
					b.StopTimer()
					g, err := Open("/coracle-cgbench")
					if err == nil {
						err = g.Create(nil)
					}
					if err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if err := Clear("/coracle-cgbench"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
