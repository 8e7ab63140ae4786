package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	listed := map[string]entry{"is skipped": {skipped, "why"}, "fails": {failed, "why"}, "may": {depends, "why"}}
	good := func() map[string]result {
		return map[string]result{"passes": {passed, ""}, "is skipped": {skipped, ""}, "fails": {failed, ""}, "may": {failed, ""}}
	}
	if err := judge(io.Discard, good(), listed, false, 0); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(map[string]result){
		"fails anew":       func(m map[string]result) { m["passes"] = result{failed, "x"} },
		"is skipped anew":  func(m map[string]result) { m["passes"] = result{skipped, "x"} },
		"better than told": func(m map[string]result) { m["fails"] = result{passed, ""} },
		"gone":             func(m map[string]result) { delete(m, "fails") },
	} {
		m := good()
		change(m)
		var out strings.Builder
		if err := judge(&out, m, listed, false, 0); err == nil || !strings.Contains(out.String(), "1 not as expected") {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}

func TestReadExpected(t *testing.T) {
	if _, err := readExpected("expected.txt"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"failed: no reason", "passed: x # y", "failed: x # y\nskipped: x # z", "nonsense"} {
		path := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readExpected(path); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
