package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/image"
)

// TestPodFilesLeadNowhere: an image that has links where a pod's files are mounted, and a container that tries to put
// links there, reach no file of the host: not when they are mounted, and not when the pod gets another container.
func TestPodFilesLeadNowhere(t *testing.T) {
	n := newNode(t)
	host := filepath.Join(n.base, "host")
	writeFile(t, host, "the host's")
	const hostile = "docker.io/library/hostile:test"
	root := busyboxRoot(t)
	names := []string{"hostname", "resolv.conf"}
	for _, name := range names {
		if err := os.Symlink(host, filepath.Join(root, "etc", name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.store.Build(hostile, root, image.BuildOptions{Cmd: []string{"sh"}}); err != nil {
		t.Fatal(err)
	}
	pod, cfg := n.pod("files")
	links := func(c *cri.ContainerConfig) { c.Image.Image = hostile }
	script := `for f in hostname resolv.conf; do
	rm -f /etc/$f; ln -sf HOST /etc/$f; mv /tmp/none /etc/$f; echo written > /etc/$f
	rm -f HOST; ln -sf HOST.other HOST; mv HOST HOST.moved; done 2>/dev/null; true`
	script = strings.ReplaceAll(script, "HOST", host)
	for _, ctr := range []string{"first", "second"} {
		n.output(pod, cfg, ctr, script, links)
		n.output(pod, cfg, ctr+"-plain", script)
	}
	if got := readFile(host); got != "the host's" {
		t.Errorf("the host's file now holds %q", got)
	}
	for _, name := range names {
		path := filepath.Join(n.base, "state", "sandboxes", pod, name)
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
	entries, err := filepath.Glob(host + "*")
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the host's file: %v %v", entries, err)
	}
}
