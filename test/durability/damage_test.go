package durability

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// run runs a command of coracle on the cluster and returns what it says.
func (c *cluster) run(args ...string) (string, error) {
	out, err := exec.Command(c.self, append(args, "--data-dir", c.dir)...).CombinedOutput()
	return string(out), err
}

// seen is what a client knows of a cluster.
type seen struct {
	uid      string // of kube-system
	revision int64
	objects  int // of those that fillObjects makes
}

// look starts the server, looks at what it holds, and stops it as its user would.
func (c *cluster) look(add int) seen {
	c.t.Helper()
	s := c.start()
	a := connect(c.t, c.dir)
	ctx := c.t.Context()
	var system struct {
		Meta struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	err := c.until(ctx, s, &ledger{}, "the server to answer", func() bool {
		code, err := a.do(ctx, http.MethodGet, "/api/v1/namespaces/kube-system", nil, &system)
		return err == nil && code == http.StatusOK
	})
	if err != nil {
		c.t.Fatal(err)
	}
	var got configMap
	for i := range add {
		if code, err := a.do(ctx, http.MethodPost, configMaps, object(fmt.Sprint("kept-", i), "", content("kept", i+1)), &got); code != http.StatusCreated {
			c.t.Fatalf("create: %d %v %s", code, err, got.Message)
		}
	}
	var list struct {
		configMap
		Items []configMap `json:"items"`
	}
	if code, err := a.do(ctx, http.MethodGet, configMaps, nil, &list); code != http.StatusOK {
		c.t.Fatalf("list: %d %v", code, err)
	}
	out := seen{uid: system.Meta.UID, revision: list.revision()}
	for _, item := range list.Items {
		if strings.HasPrefix(item.Meta.Name, "kept-") {
			out.objects++
		}
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		c.t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		if err != nil {
			c.t.Errorf("the server ended with %v:\n%s", err, c.output.Bytes())
		}
	case <-time.After(30 * time.Second):
		c.t.Fatal("the server does not end")
	}
	return out
}

func (c *cluster) path(name string) string {
	c.t.Helper()
	found, err := filepath.Glob(filepath.Join(c.dir, name))
	if err != nil || len(found) != 1 {
		c.t.Fatalf("%s: %v, %v", name, found, err)
	}
	return found[0]
}

// TestDamageIsRefused harms a cluster's files, one after the other. `up` and the server say which, and end with 1; what
// they say to do works; nothing that a client has seen comes again as something else.
func TestDamageIsRefused(t *testing.T) {
	const kept = 20
	c := create(t)
	before := c.look(kept)
	if before.objects != kept {
		t.Fatalf("%+v", before)
	}
	snapshot := filepath.Join(t.TempDir(), "picture")
	c.copy(c.dir, snapshot)
	overwrite := func(name string, at int) func() {
		return func() {
			raw, err := os.ReadFile(c.path(name))
			if err != nil {
				t.Fatal(err)
			}
			raw[at] ^= 1
			if err := os.WriteFile(c.path(name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(names ...string) func() {
		return func() {
			for _, name := range names {
				if err := os.RemoveAll(c.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, harm := range []struct {
		name string
		do   func()
		says string // with the file's name
		left int    // objects, by salvage; -1 when nothing can be salvaged
	}{
		{"the log's salt flipped", overwrite("store/log-*", 13), "store/log-", kept},
		{"the log removed", remove("store/log-*"), "store: all files of the store are missing", -1},
		{"store removed", remove("store"), "store: all files of the store are missing", -1},
		{"mark flipped", overwrite("record/store.mark", 20), "", kept},
		{"record removed", remove("record"), "record/store.mark: the mark is missing", kept},
		{"store and record removed", remove("store", "record"), "missing", -1},
	} {
		harm.do()
		if harm.says == "" {
			if now := c.look(0); now.objects != kept {
				t.Errorf("%s: %+v", harm.name, now)
			}
			c.restore(snapshot)
			continue
		}
		for _, args := range [][]string{{"server"}, {"up", "--simulate", "1", "--detach"}} {
			out, err := c.run(args...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, harm.says) || !strings.Contains(out, "coracle store anew") {
				t.Errorf("%s: %v says (%v):\n%s", harm.name, args, err, out)
			}
		}
		after := seen{objects: -1}
		if out, err := c.run("store", "salvage"); err == nil {
			after = c.look(0)
			t.Logf("%s: %s", harm.name, out)
		} else if harm.left >= 0 || !strings.Contains(out, "store anew") {
			t.Errorf("%s: salvage: %v\n%s", harm.name, err, out)
		}
		if after.objects != harm.left || after.objects >= 0 && (after.revision <= before.revision || after.uid != before.uid) {
			t.Errorf("%s: salvaged %+v, want %d objects; before %+v", harm.name, after, harm.left, before)
		}
		c.restore(snapshot)
		harm.do()
		if out, err := c.run("store", "anew"); err != nil {
			t.Errorf("%s: anew: %v\n%s", harm.name, err, out)
		} else if anew := c.look(0); anew.objects != 0 || anew.revision <= before.revision || anew.uid == before.uid {
			t.Errorf("%s: begun anew %+v; before %+v", harm.name, anew, before)
		}
		c.restore(snapshot)
	}
	if out, err := c.run("store", "anew"); err == nil || !strings.Contains(out, "nothing is damaged") {
		t.Errorf("a sound store is given up: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"server"}, {"up", "--simulate", "1", "--detach"}} {
		remove("cluster.json")()
		out, err := c.run(args...)
		if err == nil || !strings.Contains(out, "cluster.json is missing") || !strings.Contains(out, filepath.Join(c.dir, "record", "cluster.json")) {
			t.Errorf("without cluster.json: %v says (%v):\n%s", args, err, out)
		}
		c.copy(filepath.Join(c.dir, "record"), c.dir) // as the message says
	}
	if now := c.look(0); now.objects != kept || now.uid != before.uid {
		t.Errorf("in the end: %+v; before %+v", now, before)
	}
}

func (c *cluster) copy(from, to string) {
	c.t.Helper()
	if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		c.t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

// restore puts the data directory back as it was in a snapshot.
func (c *cluster) restore(snapshot string) {
	c.t.Helper()
	if err := os.RemoveAll(c.dir); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	c.copy(snapshot, c.dir)
}
