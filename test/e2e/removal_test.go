package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
)

// guests are a pod that runs and one that has ended. Both mount HOST, a directory and a file of it; the second is no
// root and has a volume of each kind.
const guests = `
apiVersion: v1
kind: ConfigMap
metadata: {name: told}
data: {word: hello}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: running}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sleep, "1000"]
    volumeMounts:
    - {name: host, mountPath: /whole}
    - {name: host, mountPath: /sub, subPath: sub}
    - {name: host, mountPath: /file, subPath: sub/file}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - {name: host, hostPath: {path: HOST}}
  - {name: scratch, emptyDir: {}}
---
apiVersion: v1
kind: Pod
metadata: {name: ended}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}
  containers:
  - name: c
    image: e2e/tools:1
    command: [sh, -ec, "cat /told/word; echo mine >/kept/file; cat /kept/file; echo mine >/scratch/file; cat /scratch/file; ls /whole /sub; cat /file"]
    volumeMounts:
    - {name: host, mountPath: /whole}
    - {name: host, mountPath: /sub, subPath: sub}
    - {name: host, mountPath: /file, subPath: sub/file}
    - {name: scratch, mountPath: /scratch}
    - {name: told, mountPath: /told}
    - {name: kept, mountPath: /kept}
  volumes:
  - {name: host, hostPath: {path: HOST}}
  - {name: scratch, emptyDir: {}}
  - {name: told, configMap: {name: told}}
  - {name: kept, persistentVolumeClaim: {claimName: kept}}
`

// TestDownHarmsNothing: whatever the cluster's directory is called, and whatever its pods had mounted, `down` removes
// all of the cluster and nothing of the host's.
func TestDownHarmsNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		// dir makes the directory's way below root and returns the path to give.
		dir func(t *testing.T, root string) string
		// before is called when all runs.
		before func(c *cluster)
	}{
		{"plain", func(_ *testing.T, root string) string { return filepath.Join(root, "d") }, closed},
		{"a link", func(t *testing.T, root string) string { return linkTo(t, root, "link", filepath.Join(root, "real")) },
			func(c *cluster) { c.kill("runtime-node-1") }},
		{"a link to a link", func(t *testing.T, root string) string {
			return linkTo(t, root, "outer", linkTo(t, root, "inner", "re al"))
		}, nil},
		{"a space", func(_ *testing.T, root string) string { return filepath.Join(root, "sp ace") }, nil},
		{"a newline", func(_ *testing.T, root string) string { return filepath.Join(root, "new\nline") }, nil},
		{"not ASCII", func(_ *testing.T, root string) string { return filepath.Join(root, "höhle\u00a0世界") }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := emptyCluster(t)
			host := hostTree(t, c.root)
			before := contents(t, host)
			c.dir = test.dir(t, c.root)
			c.up(1, "--listen", "127.0.0.1:0")
			c.connect()
			c.coracle("image", "build", "-t", "e2e/tools:1", "-e", "PATH=/bin", built.rootfs)
			c.apply(strings.ReplaceAll(guests, "HOST", host))
			c.k("wait", "pod/running", "--for=condition=Ready", "--timeout=60s")
			c.k("wait", "pod/ended", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
			c.want("a user's volumes", c.k("logs", "ended"), "hellomine\nmine\n", "precious")
			if diff := cmp.Diff(before, contents(t, host)); diff != "" {
				t.Errorf("before down:\n%s", diff)
			}
			if test.before != nil {
				test.before(c)
			}
			real, err := filepath.EvalSymlinks(c.dir)
			if err != nil {
				t.Fatal(err)
			}
			c.coracle("down", "--grace", "1s")
			if _, err := os.Lstat(real); err == nil {
				t.Errorf("%q is left", real)
			}
			if diff := cmp.Diff(before, contents(t, host)); diff != "" {
				t.Errorf("down changed what is the host's (-before +after):\n%s", diff)
			}
			// A link is the user's: it stays, for the next up.
			for _, name := range []string{"link", "outer", "inner"} {
				os.Remove(filepath.Join(c.root, name))
			}
		})
	}
}

func linkTo(t *testing.T, root, name, to string) string {
	t.Helper()
	if !filepath.IsAbs(to) {
		if err := os.Mkdir(filepath.Join(root, to), 0o755); err != nil {
			t.Fatal(err)
		}
	} else if _, err := os.Lstat(to); err != nil {
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(root, name)
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostTree makes a tree of the host's: directories, files, links, and a file system mounted in another whose mounts are
// shared (mount_namespaces(7)), so that what happens in its copies would happen to it.
func hostTree(t *testing.T, root string) string {
	t.Helper()
	host := filepath.Join(root, "host")
	outer := filepath.Join(host, "outer")
	inner := filepath.Join(outer, "sub", "inner")
	t.Cleanup(func() {
		if err := filetree.UnmountBelow(host); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	mountShared := func(at string) {
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("e2e", at, "tmpfs", 0, "size=1m,mode=755"); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("", at, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
	}
	mountShared(outer)
	mountShared(inner)
	for _, path := range []string{"file", "sub/file", "sub/deep/er/file", "sub/inner/file", "beside/file"} {
		path = filepath.Join(outer, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../beside", filepath.Join(outer, "sub", "link")); err != nil {
		t.Fatal(err)
	}
	return outer
}

// contents is what can be seen of a tree: modes, owners, times and what is in the files.
func contents(t *testing.T, root string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		what := fmt.Sprintf("%o %d:%d %d.%d dev %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Dev)
		if d.Type().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %x", sha256.Sum256(raw))
		}
		seen[path] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// closed: nobody but its owner can name, list or open anything in the cluster's directory, in one that was open as well
// once `up` has run; and the socket that may lie elsewhere is closed too.
func closed(c *cluster) {
	c.t.Helper()
	if err := os.Chmod(c.dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	c.up(1)
	// What encloses the directory must not be what closes it.
	if err := os.Chmod(c.root, 0o755); err != nil {
		c.t.Fatal(err)
	}
	paths := []string{"-d", "--"}
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // pods come and go
		}
		if path != c.dir && len(paths) < 2000 {
			paths = append(paths, path)
		}
		if d.Type()&fs.ModeSocket != 0 {
			if info, err := d.Info(); err == nil && info.Mode().Perm() != 0o600 {
				c.t.Errorf("socket %s has mode %v", path, info.Mode())
			}
		}
		return nil
	})
	if err != nil || len(paths) < 20 {
		c.t.Fatalf("%d paths, %v", len(paths), err)
	}
	for _, args := range [][]string{paths, {c.dir}} {
		cmd := exec.Command("ls", args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{}}}
		if r := c.run(cmd); r.out != "" || r.err == nil {
			c.t.Errorf("another user sees %s", r.out)
		}
	}
}

// TestDownThatCannotFinish: `down` touches nothing of a cluster in whose directory somebody else has something mounted,
// says where, and finishes when that is gone. Files that are not the cluster's stay.
func TestDownThatCannotFinish(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	t.Cleanup(func() {
		if err := filetree.UnmountBelow(c.dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
		os.RemoveAll(filepath.Join(c.dir, "mine"))
		os.Remove(c.dir)
	})
	mountAt := func(at string) {
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("e2e", at, "tmpfs", 0, "size=8m"); err != nil {
			t.Fatal(err)
		}
	}
	mountAt(c.dir) // the directory is a mount point itself: that is none of the cluster's business
	c.up(1, "--listen", "127.0.0.1:0", "--use-context")
	c.connect()
	kubeconfig, err := os.ReadFile(filepath.Join(c.dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(c.dir, "mine", "notes")
	disk := filepath.Join(c.dir, "nodes", "node-1", "volumes", "..", "disk of mine")
	mountAt(disk)
	for _, path := range []string{mine, filepath.Join(disk, "file")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"down"}, {"down", "--node", "node-1"}, {"down"}} {
		r := c.run(c.command(append(args, "--grace", "1s")...))
		if r.err == nil || !strings.Contains(r.errs, "umount '"+filepath.Clean(disk)+"'") {
			t.Errorf("%v with a disk mounted: %v %q", args, r.err, r.errs)
		}
	}
	for _, path := range []string{"cluster.json", "store", "pki", "nodes/node-1", "nodes/node-1/disk of mine/file"} {
		if _, err := os.Stat(filepath.Join(c.dir, path)); err != nil {
			t.Error(err)
		}
	}
	if now, err := os.ReadFile(filepath.Join(c.dir, "kubeconfig")); err != nil || string(now) != string(kubeconfig) {
		t.Errorf("the kubeconfig, which KUBECONFIG names, was changed: %v\n%s", err, now)
	}
	if err := unix.Unmount(disk, 0); err != nil {
		t.Fatal(err)
	}
	c.coracle("down")
	left, err := os.ReadDir(c.dir)
	if err != nil || len(left) != 1 || left[0].Name() != "mine" {
		t.Errorf("left: %v, %v", left, err)
	}
	if raw, err := os.ReadFile(mine); err != nil || string(raw) != "precious" {
		t.Errorf("what is not the cluster's: %q, %v", raw, err)
	}
}
