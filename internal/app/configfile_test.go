package app

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// begun is a directory in which a cluster was created, with what tells that.
func begun(t *testing.T) (DataDir, ClusterConfig) {
	t.Helper()
	dir := DataDir(filepath.Join(t.TempDir(), "cluster"))
	cfg, err := ensureConfig(dir, asked{listen: "127.0.0.1:0", domain: ""}, time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if err := changeSettings(dir, &cfg, func(s *Settings) { s.PodPidsLimit = 100 }, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir.PKI(), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, cfg
}

// listing is all that is in a directory, with contents.
func listing(t *testing.T, dir DataDir) string {
	t.Helper()
	var out strings.Builder
	err := fs.WalkDir(os.DirFS(string(dir)), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(dir.join(path))
		fmt.Fprintf(&out, "%s %x\n", path, sha256.Sum256(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestDamagedConfigIsRefusedOrHarmless does everything to each byte of cluster.json: it is read as it was, or refused
// by name, with the way out, and nothing is changed.
func TestDamagedConfigIsRefusedOrHarmless(t *testing.T) {
	dir, cfg := begun(t)
	whole, err := os.ReadFile(dir.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	refusals := 0
	damaged := func(what string, raw []byte) {
		got, _, err := decodeConfig(raw)
		if err == nil {
			if got != cfg {
				t.Errorf("%s: taken for %+v", what, got)
			}
			return
		}
		if refusals++; refusals%50 != 0 { // of the others, that they are refused is enough
			return
		}
		if err := os.WriteFile(dir.ConfigFile(), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err = loadConfig(dir); err == nil {
			t.Errorf("%s: a file is taken for what its bytes are not", what)
			return
		}
		wayOut := "cp " + dir.ConfigCopy() + " " + dir.ConfigFile()
		if text := err.Error(); !strings.Contains(text, dir.ConfigFile()+": ") || !strings.Contains(text, wayOut) {
			t.Errorf("%s: %v", what, err)
		}
		before := listing(t, dir)
		if _, err := ensureConfig(dir, asked{listen: "", domain: ""}, time.Now()); err == nil {
			t.Errorf("%s: `up` goes on", what)
		}
		if after := listing(t, dir); after != before {
			t.Errorf("%s: `up` changed\n%s\nto\n%s", what, before, after)
		}
	}
	for at := range whole {
		for bit := range 8 {
			raw := bytes.Clone(whole)
			raw[at] ^= 1 << bit
			damaged(fmt.Sprintf("byte %d, bit %d", at, bit), raw)
		}
		raw := bytes.Clone(whole)
		raw[at] = 0
		damaged(fmt.Sprintf("byte %d zero", at), raw)
		damaged(fmt.Sprintf("cut at %d", at), whole[:at])
		damaged(fmt.Sprintf("zero from %d on", at), append(bytes.Clone(whole[:at]), make([]byte, len(whole)-at)...))
	}
	damaged("twice", append(bytes.Clone(whole), whole...))
	damaged("an empty object", []byte("{}"))
	damaged("null", []byte("null"))
	if refusals < 8*len(whole)/2 {
		t.Errorf("only %d refusals of a file of %d bytes", refusals, len(whole))
	}

	if err := os.Remove(dir.ConfigFile()); err != nil {
		t.Fatal(err)
	}
	_, load := loadConfig(dir)
	_, up := ensureConfig(dir, asked{listen: "", domain: ""}, time.Now())
	for what, err := range map[string]error{"load": load, "up": up} {
		if text := fmt.Sprint(err); !strings.Contains(text, "cluster.json is missing") || !strings.Contains(text, dir.ConfigCopy()) {
			t.Errorf("gone: %s: %v", what, err)
		}
	}
}

// TestConfigCopy: the way out leads out; a copy that is damaged is not recommended, and written again while the
// original is whole.
func TestConfigCopy(t *testing.T) {
	dir, cfg := begun(t)
	spoil := func(path string) {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, bytes.Replace(raw, []byte("cluster.local"), []byte("cluster.lokal"), 1), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	spoil(dir.ConfigCopy())
	if got, err := ensureConfig(dir, asked{listen: "", domain: ""}, time.Now()); err != nil || got != cfg {
		t.Fatalf("a damaged copy: %+v %v", got, err)
	}
	spoil(dir.ConfigFile())
	if _, err := loadConfig(dir); err == nil {
		t.Fatal("a changed domain passes")
	}
	raw, err := os.ReadFile(dir.ConfigCopy())
	if err == nil {
		err = os.WriteFile(dir.ConfigFile(), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := loadConfig(dir); err != nil || got != cfg {
		t.Errorf("after the way out: %+v %v", got, err)
	}
	spoil(dir.ConfigFile())
	spoil(dir.ConfigCopy())
	_, err = loadConfig(dir)
	if text := fmt.Sprint(err); strings.Contains(text, "cp ") || !strings.Contains(text, "a copy of your own") {
		t.Errorf("both are damaged: %v", err)
	}
}

// TestConfigWithoutChecksum: that of an earlier version, and one that its user edited, are taken, and sealed by `up`.
func TestConfigWithoutChecksum(t *testing.T) {
	dir, cfg := begun(t)
	cfg.Domain = "example.internal"
	if err := writeJSON(dir.ConfigFile(), cfg); err != nil {
		t.Fatal(err)
	}
	if got, err := loadConfig(dir); err != nil || got != cfg {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := ensureConfig(dir, asked{listen: "", domain: ""}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir.ConfigFile(), dir.ConfigCopy()} {
		if got, sealed, err := readConfig(path); err != nil || !sealed || got != cfg {
			t.Errorf("%s: %+v %v %v", path, got, sealed, err)
		}
	}
}
