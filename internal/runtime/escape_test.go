package runtime

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/image"
)

// trap is a script in a container whose interpreter is the program that runs it.
const trap = "/trap"

// TestOwnProgramIsNotWritten: a container that gets hold of the program that starts commands in it (CVE-2019-5736) holds a
// file of its own that nobody can write, and not the runtime's.
func TestOwnProgramIsNotWritten(t *testing.T) {
	n := newNode(t)
	root := busyboxRoot(t)
	writeFile(t, filepath.Join(root, trap), "#!/proc/self/exe\n")
	if err := os.Chmod(filepath.Join(root, trap), 0o755); err != nil {
		t.Fatal(err)
	}
	const img = "trap:1"
	if _, err := n.store.Build(img, root, image.BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	pod, cfg := n.pod("trap")
	// In a shell of its own, as one whose redirection fails ends: the process may have gone before its program is opened.
	id := n.sh(pod, cfg, "main", `try() { exec 3<$1/exe; readlink /proc/self/fd/3; while [ -d $1 ]; do :; done; (echo x >/proc/self/fd/3) && echo WRITTEN; echo tried; }
while :; do for p in /proc/[0-9]*; do
	case "$(readlink $p/exe)" in /bin/*|"") ;; *) (try $p) && break 2;; esac; done; done`, func(c *cri.ContainerConfig) { c.Image.Image = img })
	n.startCtr(id)
	n.until("the container catches the program", func() bool {
		r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{trap}, Timeout: int64(wait.Seconds())})
		if err == nil && r.ExitCode != 255 && r.ExitCode != 137 { // 137: with the container, which has caught an earlier one
			t.Fatalf("the script's interpreter ended with %d: %s", r.ExitCode, r.Stderr)
		}
		return n.status(id).State == cri.ContainerState_CONTAINER_EXITED
	})
	out := logText(t, filepath.Join(cfg.LogDirectory, "main.log"))
	if strings.Contains(out, "WRITTEN") || !strings.Contains(out, "/proc/self/fd/3: Operation not permitted") || !strings.Contains(out, "tried\n") {
		t.Errorf("writing the program: %q", out)
	}
	if !strings.Contains(out, "/memfd:coracle-init") {
		t.Errorf("the container caught another program: %q", out)
	}
}

// TestNoWayOutByDescriptor: neither a working directory in the runtime's own descriptors (CVE-2024-21626) nor what an exec
// inherits leads to the node's files.
func TestNoWayOutByDescriptor(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("descriptors")
	writeFile(t, filepath.Join(n.base, "marker"), "of the node")
	const up = "../../../../../../../.."
	look := fmt.Sprintf("cat %[1]s%[2]s/marker %[1]s/%[2]s/marker; ls %[1]s/work; echo looked", up, n.base)
	for fd := 3; fd < 13; fd++ {
		id := n.sh(pod, cfg, fmt.Sprint("fd", fd), look, func(c *cri.ContainerConfig) { c.WorkingDir = fmt.Sprint("/proc/self/fd/", fd) })
		if _, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
			continue // refused
		}
		n.finished(id)
		if out := logText(t, filepath.Join(cfg.LogDirectory, fmt.Sprint("fd", fd)+".log")); strings.Contains(out, "of the node") {
			t.Errorf("working directory /proc/self/fd/%d: %q", fd, out)
		}
	}
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	for range 2 {
		r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", `for p in self 1; do for f in /proc/$p/fd/*; do [ -d $f/ ] && echo dir $f $(readlink $f); done; done
ls /proc/1/fd | wc -l`}})
		if err != nil || strings.Contains(string(r.Stdout), "dir ") || strings.TrimSpace(string(r.Stdout)) != "3" {
			t.Errorf("descriptors: %q, %v", r.GetStdout(), err)
		}
	}
}

// TestHostileImageRoot: an image puts links to the node in the place of every directory that the runtime mounts in. Nothing
// is made, read or changed where they would lead for the runtime.
func TestHostileImageRoot(t *testing.T) {
	n := newNode(t)
	host, given := filepath.Join(n.base, "host"), filepath.Join(n.base, "given")
	for _, name := range []string{"passwd", "hosts", "hostname", "resolv.conf", "shm/x", "pts/x", "fs/cgroup/x", "work/x"} {
		writeFile(t, filepath.Join(host, name), "of the node")
	}
	writeFile(t, filepath.Join(given, "f"), "given")
	before := tree(t, host)
	ways := []string{host, "../../../../../../../../.." + host, "../../../../../proc/1/root" + host}
	for i, name := range []string{"etc", "dev", "proc", "sys", "etc/hosts", "etc/resolv.conf", "dev/shm", "data", "data/in", "work"} {
		root, to := busyboxRoot(t), ways[i%len(ways)]
		at := filepath.Join(root, name)
		if err := errors.Join(os.RemoveAll(at), os.MkdirAll(filepath.Dir(at), 0o755), os.Symlink(to, at)); err != nil {
			t.Fatal(err)
		}
		test := strings.ReplaceAll(name, "/", "-")
		if _, err := n.store.Build(test+":1", root, image.BuildOptions{Volumes: []string{"/" + name}}); err != nil {
			t.Fatal(err)
		}
		pod, cfg := n.pod(test)
		r, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: cfg, Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: test + ":1"}, LogPath: "main.log", WorkingDir: "/work/new",
			Command: []string{"/bin/sh", "-c", "for f in /" + name + " /" + name + "/*; do cat $f; echo x >$f; done; touch /" + name + "/new"},
			Mounts:  []*cri.Mount{{ContainerPath: "/data/in/deep", HostPath: given}},
			Linux:   &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: cfg.Linux.SecurityContext.NamespaceOptions}},
		}})
		if err == nil {
			if _, err = n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: r.ContainerId}); err == nil {
				n.finished(r.ContainerId)
			}
		}
		if out := logText(t, filepath.Join(cfg.LogDirectory, "main.log")); strings.Contains(out, "of the node") {
			t.Errorf("/%s is a link to %s: the container read %q", name, to, out)
		}
		if now := tree(t, host); now != before {
			t.Fatalf("/%s is a link to %s: the node's files\n%s\nare\n%s", name, to, before, now)
		}
	}
}

// tree lists a directory: names, modes and contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Mode(), info.ModTime().UnixNano())
		if !info.Mode().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(path)
		b.Write(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestStreamAddresses: who can reach the runtime's port on the loopback, and does not know the one address that was given
// out for a stream, gets nothing; nor does who comes with it a second time.
func TestStreamAddresses(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("streams")
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	given, err := n.Exec(n.ctx(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(given.Url, "http://127.0.0.1:") {
		t.Errorf("served at %s", given.Url)
	}
	base, token, ok := strings.Cut(given.Url, "/exec/")
	if !ok || len(token) < 8 {
		t.Fatalf("address %s", given.Url)
	}
	ask := func(address string) int {
		t.Helper()
		resp, err := http.Post(address, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, path := range []string{"", "/", "/exec/", "/exec/" + strings.Repeat("A", len(token)), "/exec/" + id, "/attach/" + id, "/portforward/" + pod, "/exec/" + token[:len(token)-1], "/../exec/"} {
		if code := ask(base + path); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
	ask(given.Url) // no stream, and the address is used up
	if code := ask(given.Url); code != http.StatusNotFound {
		t.Errorf("a second time: %d", code)
	}
}
