package apiserver

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"coracle/internal/store"
)

// TestFullDiskTellsNoPaths: a client whose write does not fit hears what is wrong and what to do, and nothing of where the
// cluster keeps its files; nor does anybody who asks for its health.
func TestFullDiskTellsNoPaths(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=12m"); err != nil {
		t.Skipf("mounting a small tmpfs takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c := startOn(t, store.Config{Dir: filepath.Join(dir, "store")})
	big := strings.Repeat("x", 100_000)
	var refused answer
	for i := 0; refused.code == 0; i++ {
		if i > 1000 {
			t.Fatal("the disk does not fill up")
		}
		a := c.post(configMaps, fmt.Sprintf(`{"metadata":{"name":"c%d"},"data":{"k":%q}}`, i, big))
		if a.code != 201 {
			refused = a
		}
	}
	refused.want(503).wantField("reason", "ServiceUnavailable").wantBody("its disk is full").wantBody("delete objects")
	full := func(path string) string { return fmt.Sprintf(`{"metadata":{"name":"c0"},"data":{"k":%q}}`, path+big) }
	merge := []string{"Content-Type", "application/merge-patch+json"}
	apply := []string{"Content-Type", "application/apply-patch+yaml"}
	for name, a := range map[string]answer{
		"create":             refused,
		"put":                c.call(c.http, "PUT", configMaps+"/c0", full("y")),
		"patch":              c.call(c.http, "PATCH", configMaps+"/c0", full("z"), merge...),
		"apply":              c.call(c.http, "PATCH", configMaps+"/new?fieldManager=m", `{"apiVersion":"v1","kind":"ConfigMap",`+full("a")[1:], apply...),
		"a namespace":        c.post("/api/v1/namespaces", fmt.Sprintf(`{"metadata":{"name":"n","annotations":{"a":%q}}}`, big)),
		"health":             c.call(c.as(""), "GET", "/readyz", ""),
		"health, in words":   c.call(c.as(""), "GET", "/healthz?verbose", ""),
		"generated names":    c.post(configMaps, fmt.Sprintf(`{"metadata":{"generateName":"g-"},"data":{"k":%q}}`, big)),
		"with dry run":       c.post(configMaps+"?dryRun=All", full("d")),
		"a review in memory": c.post(whoami, "{}"),
	} {
		for _, secret := range []string{dir, ".wal", "log-", "reserve"} {
			if strings.Contains(string(a.body), secret) {
				t.Errorf("%s: %d: the answer has %q: %s", name, a.code, secret, a.body[:min(len(a.body), 400)])
			}
		}
		if a.code == 500 && !strings.HasPrefix(name, "health") {
			t.Errorf("%s: %s", name, a.body[:min(len(a.body), 400)])
		}
	}
}
