package server

import (
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
)

func TestWithoutPaths(t *testing.T) {
	for message, want := range map[string]string{
		"open /data/x/nodes/a/0.log: no such file":           "open a file of the node's: no such file",
		`rename "/data/x/a" to "/data/x/b"`:                  `rename "a file of the node's" to "a file of the node's"`,
		"/data/x":                                            "a file of the node's",
		"open /data/xy/file: not the node's":                 "open /data/xy/file: not the node's",
		"container c is waiting to start: ContainerCreating": "container c is waiting to start: ContainerCreating",
	} {
		if got := withoutPaths(message, "/data/x"); got != want {
			t.Errorf("%q: %q, want %q", message, got, want)
		}
	}
	if got := withoutPaths("open /a: x", ""); got != "open /a: x" {
		t.Error(got)
	}
}

// TestRefusalsTellNoPaths: what fails at the node is said without its paths, whoever it was that failed.
func TestRefusalsTellNoPaths(t *testing.T) {
	s, b := newFace(t)
	s.Private = filepath.Dir(b.log)
	if err := os.Remove(b.log); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(b.log, 0o700); err != nil { // a log that cannot be read
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, as("coracle-apiserver", "", httptest.NewRequest("GET", "/containerLogs/ns/web/main", nil)))
	if w.Code != 500 || strings.Contains(w.Body.String(), s.Private) || !strings.Contains(w.Body.String(), "failed to read log") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, err := range []error{
		&fs.PathError{Op: "open", Path: b.log, Err: errors.New("no")},
		grpcstatus.Error(codes.NotFound, "the runtime misses "+b.log),
		Refuse(400, "the log %s", b.log),
	} {
		w := httptest.NewRecorder()
		s.refuse(w, err)
		if strings.Contains(w.Body.String(), s.Private) || !strings.Contains(w.Body.String(), ofTheNode) {
			t.Errorf("%v: %s", err, w.Body)
		}
	}
}
